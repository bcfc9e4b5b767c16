"""Reading a compiled library: what it says about itself, its code and its weights."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import struct
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from tvm_sparse.cpu.instruction_sets import missing
from tvm_sparse.errors import LibraryError, TargetError, border
from tvm_sparse.files import open_regular, replacing
from tvm_sparse.runtime import fallback
from tvm_sparse.runtime.arrays import prepare_types
from tvm_sparse.runtime.info import LibraryInfo
from tvm_sparse.runtime.loaded import LibraryFile, LoadedLibrary, load_library
from tvm_sparse.runtime.seal import read_seal
from tvm_sparse.runtime.versions import check_versions
from tvm_sparse.runtime.weights import map_arrays

_ELF = b"\x7fELF"

# The numbers of machines in ELF files (e_machine), and their names on Linux.
_MACHINES = {62: "x86_64", 183: "aarch64", 40: "armv7l", 243: "riscv64"}


def copy_library(loaded: LibraryFile, path: Path) -> None:
    """Copy the file of a library, whole or not at all.

    Raises
    ------
    LibraryError
        If the file was written to since, or `path` cannot be written or is the same file.
    """
    source = loaded.file()
    with (
        border(LibraryError, f"{path}: cannot be written"),
        open_regular(source, LibraryError) as file,
        replacing(path, LibraryError, [loaded.path, source]) as temporary,
        temporary.open("wb") as copy,
    ):
        shutil.copyfileobj(file, copy)
        temporary.chmod(stat.S_IMODE(os.fstat(file.fileno()).st_mode))


def read_library(path: Path) -> tuple[LoadedLibrary, LibraryInfo]:
    """Load a library that this machine can run, or return it if it is loaded already.

    Nothing of the file is run before its seal, its versions and its processor are checked.

    Raises
    ------
    LibraryError
        If the file is missing, truncated, damaged, not ours, of another version, or for another
        processor.
    """
    file = open_regular(path, LibraryError)
    try:
        machine = _elf_machine(file, path)
        if machine != platform.machine():
            raise LibraryError(
                f"{path}: built for {machine}, and this machine is {platform.machine()}; compile "
                "the model again with --target native"
            )
        info = _read_info(file, path)
        _check_processor(path, info)
        fallback.check_available(info.fallbacks, str(path))
        prepare_types(info)
        with border(LibraryError, f"{path}: cannot be loaded", "compile the model again"):
            return load_library(path, file, info.weights), info
    except BaseException:
        file.close()
        raise


def read_info(path: Path) -> LibraryInfo:
    """Return what a library says about itself, without loading it; it may be for another machine.

    Raises
    ------
    LibraryError
        If the file is missing, truncated, damaged, not ours, or of another version.
    """
    with open_regular(path, LibraryError) as file:
        _elf_machine(file, path)
        return _read_info(file, path)


def read_parts(path: Path) -> tuple[LibraryInfo, bytes, list[NDArray[Any]]]:
    """Return what a library says about itself, its code, and the weights of ``main``.

    Raises
    ------
    LibraryError
        As `read_info`, or if its weights cannot be mapped.
    """
    with open_regular(path, LibraryError) as file:
        _elf_machine(file, path)
        info = _read_info(file, path)
        if info.weights is None:
            return info, path.read_bytes(), []
        with border(LibraryError, f"{path}: cannot be read"):
            arrays = info.weights.of_function("main", map_arrays(file, info.weights))
            return info, os.pread(file.fileno(), info.weights.start, 0), arrays


def _read_info(file: BinaryIO, path: Path) -> LibraryInfo:
    try:
        info = LibraryInfo.from_json(read_seal(file, path))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise LibraryError(f"{path}: of another version; compile the model again") from None
    except OSError as error:
        raise LibraryError(f"{path}: cannot be read: {error.strerror or error}") from error
    check_versions(path, info.tvm_version, info.version)
    return info


def read_library_in_memory(content: bytes) -> tuple[LoadedLibrary, LibraryInfo]:
    """Load the content of a library's file.

    Raises
    ------
    LibraryError
        As `read_library`.
    """
    with os.fdopen(os.memfd_create("tvm_sparse"), "wb") as file:
        file.write(content)
        file.flush()
        path = Path(f"/proc/self/fd/{file.fileno()}")
        try:
            return read_library(path)
        except LibraryError as error:
            raise LibraryError(str(error).replace(str(path), "a pickled engine")) from None


def is_library(path: Path) -> bool:
    """Return whether a file is a shared object, whatever its name."""
    with open_regular(path, LibraryError) as file:
        return file.read(4) == _ELF


def _elf_machine(file: BinaryIO, path: Path) -> str:
    """Return the name of the machine of a shared object, and refuse other files."""
    header = os.pread(file.fileno(), 64, 0)
    if header[:4] != _ELF:
        raise LibraryError(f"{path}: not a compiled library; `tvm-sparse compile` makes one")
    if len(header) < 64 or header[4] != 2:
        raise LibraryError(f"{path}: truncated; copy or compile it again")
    (machine,) = struct.unpack_from("<H", header, 18)
    return _MACHINES.get(machine, "another machine")


def check_machine(info: LibraryInfo) -> None:
    """Refuse a library that was compiled for another machine.

    Raises
    ------
    TargetError
        If this machine cannot run it; the message says why.
    """
    if info.machine != platform.machine():
        raise TargetError(
            f"compiled for {info.machine} ({info.cpu}), and this machine is {platform.machine()}; "
            "save the library and run it there, or compile for the target native"
        )
    if lacking := ", ".join(missing(info.instruction_sets)):
        raise TargetError(
            f"compiled for {info.cpu}, and this processor lacks {lacking}; compile for another "
            "target, such as x86-64-v3"
        )


def _check_processor(path: Path, info: LibraryInfo) -> None:
    if lacking := ", ".join(missing(info.instruction_sets)):
        raise LibraryError(
            f"{path}: built for {info.cpu}, and this processor lacks {lacking}; compile the model "
            "again with --target native"
        )

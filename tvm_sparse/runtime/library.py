"""The compiled library: a shared object that holds code, packed weights and its own description.

The description stands in the seal at the end of the file, where it is read before any code of the
library runs. It is also a function of the library, next to ``main``, for machines that load the
library without this package.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import stat
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import tvm
from tvm import relax
from tvm.target import codegen

from tvm_sparse.cpu.instruction_sets import missing
from tvm_sparse.dtypes import DType
from tvm_sparse.errors import LibraryError, TargetError, border
from tvm_sparse.files import open_regular, replacing
from tvm_sparse.runtime import fallback
from tvm_sparse.runtime.field_types import check_fields
from tvm_sparse.runtime.linking import link_command
from tvm_sparse.runtime.loaded import LibraryFile, LoadedLibrary, load_library
from tvm_sparse.runtime.objects import write_shared_object
from tvm_sparse.runtime.seal import add_seal, read_seal
from tvm_sparse.runtime.versions import check_versions
from tvm_sparse.runtime.weights import Weights, append_weights
from tvm_sparse.sizes.decoder import Decoder
from tvm_sparse.specs import Fallback, TensorSpec
from tvm_sparse.version import __version__

_DESCRIPTION = "tvm_sparse_description"

_ELF = b"\x7fELF"

# The numbers of machines in ELF files (e_machine), and their names on Linux.
_MACHINES = {62: "x86_64", 183: "aarch64", 40: "armv7l", 243: "riscv64"}


@dataclass(frozen=True)
class LibraryInfo:
    """What a library says about itself.

    Attributes
    ----------
    inputs, outputs : tuple of TensorSpec
        The inputs and outputs in the order of the model.
    constant_outputs : tuple of str
        The outputs that depend on no input; they are constants of the library.
    cpu : str
        The LLVM name of the processor that it was built for.
    machine : str
        The name of that processor's architecture on Linux, such as ``"aarch64"``.
    instruction_sets : tuple of str
        The optional instruction sets that its code may use.
    tvm_version, version : str
        The versions of TVM and tvm_sparse that built it.
    fallbacks : tuple of Fallback
        The nodes of the model that ONNX Runtime runs.
    threads : int
        The number of threads that its work is cut for; 0 if an older version built it, which did
        not say so.
    precision : DType
        The type that its activations are computed in.
    bounds : mapping of str to int
        The largest sizes of named dimensions that it was compiled for; others have no bound.
    decoder : Decoder or None
        What a session must know, if the model is a decoder, whose functions sessions call.
    weights : Weights or None
        The weights beside the code, which functions have as their last parameters.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constant_outputs: tuple[str, ...]
    cpu: str
    machine: str
    instruction_sets: tuple[str, ...]
    tvm_version: str = tvm.__version__
    version: str = __version__
    fallbacks: tuple[Fallback, ...] = ()
    threads: int = 0
    precision: DType = DType.FLOAT32
    bounds: Mapping[str, int] = field(default_factory=dict)
    decoder: Decoder | None = None
    weights: Weights | None = None

    @property
    def has_sizes(self) -> bool:
        """Whether inputs may have shapes of several sizes; functions of a decoder have none."""
        return self.decoder is None and not all(spec.is_static for spec in self.inputs)

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        fields = asdict(self)
        usual = {"fallbacks": (), "precision": DType.FLOAT32, "bounds": {}}
        fields = {name: field for name, field in fields.items() if field != usual.get(name)}
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> LibraryInfo:
        """Return the description written by `to_json`; any error means that it was not."""
        fields = json.loads(text)
        for name in ("inputs", "outputs"):
            fields[name] = tuple(
                TensorSpec(spec["name"], tuple(spec["shape"]), spec["dtype"])
                for spec in fields[name]
            )
        for name in ("constant_outputs", "instruction_sets"):
            fields[name] = tuple(fields[name])
        fields["fallbacks"] = tuple(
            Fallback(**found | {"nodes": tuple(found["nodes"])})
            for found in fields.get("fallbacks", ())
        )
        if "decoder" in fields:
            fields["decoder"] = Decoder.from_fields(fields["decoder"])
        if "weights" in fields:
            fields["weights"] = Weights.from_fields(fields["weights"])
        fields["precision"] = DType(fields.get("precision", DType.FLOAT32))
        info = cls(**fields)
        check_fields(info)
        return info


def describe(mod: tvm.IRModule, info: LibraryInfo) -> tvm.IRModule:
    """Return `mod` with a function that returns `info`."""
    builder = relax.BlockBuilder(mod)
    with builder.function(_DESCRIPTION, params=[]):
        builder.emit_func_output(tvm.ir.StringImm(info.to_json()))
    return builder.get()


def write_library(
    module: tvm.runtime.Module,
    path: Path,
    info: LibraryInfo,
    linker: str = "auto",
    read: Iterable[Path] = (),
    weights: Sequence[tvm.runtime.Tensor] = (),
) -> None:
    """Link a compiled module into a shared library, whole or not at all.

    Parameters
    ----------
    module : tvm.runtime.Module
        The module that TVM compiled.
    path : Path
        The file to write.
    info : LibraryInfo
        What the library says about itself.
    linker : str
        One of `tvm_sparse.runtime.linking.LINKERS`.
    read : iterable of Path
        Files from which the module was made; the library may not replace any of them.
    weights : sequence of tensor
        The weights beside the code, as `info` says.

    Raises
    ------
    LibraryError
        If `path` cannot be written, or no linker for the machine is installed.
    """
    command = link_command(info.machine, linker)
    with _writing(path), replacing(path, LibraryError, read) as temporary:
        library = write_shared_object(module, temporary.parent, command)
        if info.weights is not None:
            arrays = [tensor.numpy() for tensor in weights]
            info = replace(info, weights=append_weights(library, info.weights, arrays))
        add_seal(library, info.to_json())
        library.replace(temporary)


def _writing(path: Path) -> contextlib.AbstractContextManager[None]:
    return border(LibraryError, f"{path}: cannot be written")


def copy_library(loaded: LibraryFile, path: Path) -> None:
    """Copy the file of a library, whole or not at all.

    Raises
    ------
    LibraryError
        If the file was written to since, or `path` cannot be written or is the same file.
    """
    source = loaded.file()
    with (
        _writing(path),
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


def _read_info(file: BinaryIO, path: Path) -> LibraryInfo:
    try:
        info = LibraryInfo.from_json(read_seal(file, path))
    except (AttributeError, KeyError, TypeError, ValueError):
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
            f"{path}: built for {info.cpu}, and this processor "
            f"({codegen.llvm_get_system_cpu()}) lacks {lacking}; compile the model again "
            "with --target native"
        )

"""The compiled library: a shared object that holds code, packed weights and its own description.

The description is a function of the library, next to ``main``, that returns a JSON string, so
that it can be read without running a single generated instruction.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tvm
from tvm import relax
from tvm.runtime import _ffi_api
from tvm.target import codegen

from tvm_sparse.errors import LibraryError, TargetError
from tvm_sparse.files import replacing
from tvm_sparse.runtime import fallback
from tvm_sparse.runtime.linking import link, link_command
from tvm_sparse.runtime.loaded import LoadedLibrary, load_library
from tvm_sparse.runtime.quiet import quiet_runtime
from tvm_sparse.specs import Fallback, TensorSpec
from tvm_sparse.version import __version__

_DESCRIPTION = "tvm_sparse_description"

# The instruction sets that generated code may use but not every processor has.
_INSTRUCTION_SETS = (
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl",
    "neon", "sve", "sve2", "v",
)  # fmt: skip

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

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        fields = {
            name: field for name, field in asdict(self).items() if field or name != "fallbacks"
        }
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> LibraryInfo:
        """Return the description written by `to_json`."""
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
        return cls(**fields)


def instruction_sets(target: tvm.target.Target) -> tuple[str, ...]:
    """Return the optional instruction sets of a target's processor."""
    features = {str(feature) for feature in codegen.llvm_get_cpu_features(target)}
    return tuple(name for name in _INSTRUCTION_SETS if name in features)


def describe(mod: tvm.IRModule, info: LibraryInfo) -> tvm.IRModule:
    """Return `mod` with a function that returns `info`."""
    builder = relax.BlockBuilder(mod)
    with builder.function(_DESCRIPTION, params=[]):
        builder.emit_func_output(tvm.ir.StringImm(info.to_json()))
    return builder.get()


def write_library(
    module: tvm.runtime.Module, path: Path, machine: str, linker: str = "auto"
) -> None:
    """Link a compiled module into a shared library, whole or not at all.

    Parameters
    ----------
    module : tvm.runtime.Module
        The module that TVM compiled.
    path : Path
        The file to write.
    machine : str
        The architecture that `module` was compiled for.
    linker : str
        One of `tvm_sparse.runtime.linking.LINKERS`.

    Raises
    ------
    LibraryError
        If `path` cannot be written, or no linker for `machine` is installed.
    """
    command = link_command(machine, linker)

    def link_objects(output: str, objects: list[str], options: Sequence[str] = ()) -> None:
        # A model without kernels comes as a file of C code, with options for its headers.
        link(command, output, [*options, *objects])

    with replacing(path, LibraryError) as temporary, quiet_runtime():
        module.export_library(
            str(temporary),
            fcompile=link_objects,
            fpack_imports=_pack_constants,
            workspace_dir=str(temporary.parent),
        )


def copy_library(source: Path, path: Path) -> None:
    """Copy a library, whole or not at all.

    Raises
    ------
    LibraryError
        If `source` is gone or `path` cannot be written.
    """
    _check_elf(source)
    with replacing(path, LibraryError) as temporary:
        shutil.copyfile(source, temporary)


def _pack_constants(
    module: tvm.runtime.Module, _is_system_lib: bool, _prefix: str, folder: str
) -> str:
    """Put the weights into an assembler file that includes them as they are.

    TVM itself lets LLVM print the weights as one array, which takes five times the memory.
    """
    blob, source = Path(folder) / "constants.bin", Path(folder) / "constants.S"
    _ffi_api.ModulePackImportsToTensor(module).numpy().tofile(blob)
    symbol = _ffi_api.ModuleImportsBlobName()
    # In a section for large data, the weights do not push the code more than 2 GB away from the
    # small data that it refers to.
    source.write_text(
        f"""\
#if defined(__x86_64__)
.section .lrodata,"al",@progbits
#else
.section .rodata
#endif
.globl {symbol}
.balign 64
{symbol}:
.incbin "{blob}"
.section .note.GNU-stack,"",%progbits
"""
    )
    return str(source)


def read_library(path: Path) -> tuple[LoadedLibrary, LibraryInfo]:
    """Load a library that this machine can run, or return it if it is loaded already.

    Raises
    ------
    LibraryError
        If the file is missing, truncated, not ours, or for another processor.
    """
    _check_elf(path)
    foreign = f"{path}: not a library that tvm-sparse compiled"
    try:
        loaded = load_library(path, path.open("rb"))
    except (OSError, RuntimeError, ValueError) as error:
        raise LibraryError(f"{foreign}: {str(error).strip().splitlines()[-1]}") from None
    try:
        info = description(relax.VirtualMachine(loaded.module, tvm.cpu()))
    except (AttributeError, KeyError, TypeError, RuntimeError, ValueError):
        raise LibraryError(
            f"{foreign}, or not version {__version__}; compile the model again"
        ) from None
    _check_processor(path, info)
    fallback.check_available(info.fallbacks, str(path))
    return loaded, info


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


def description(machine: relax.VirtualMachine) -> LibraryInfo:
    """Return what the library that a virtual machine runs says about itself."""
    return LibraryInfo.from_json(str(machine[_DESCRIPTION]()))


def _check_elf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            header = file.read(64)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise LibraryError(f"{path}: cannot be read: {error.strerror or error}") from None
    if header[:4] != b"\x7fELF":
        raise LibraryError(f"{path}: not a compiled library; `tvm-sparse compile` makes one")
    if len(header) == 64 and header[4] == 2:
        (machine,) = struct.unpack_from("<H", header, 18)
        if _MACHINES.get(machine) != platform.machine():
            raise LibraryError(
                f"{path}: built for {_MACHINES.get(machine, 'another machine')}, and this "
                f"machine is {platform.machine()}; compile the model again with --target native"
            )
        # The section table is the last thing in the file.
        (table,) = struct.unpack_from("<Q", header, 40)
        entry_bytes, entries = struct.unpack_from("<HH", header, 58)
        if table + entry_bytes * entries <= size:
            return
    raise LibraryError(f"{path}: truncated; copy or compile it again")


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
    missing = _missing_instruction_sets(info)
    if missing:
        raise TargetError(f"compiled for {info.cpu}, and this processor lacks {missing}")


def _check_processor(path: Path, info: LibraryInfo) -> None:
    missing = _missing_instruction_sets(info)
    if missing:
        raise LibraryError(
            f"{path}: built for {info.cpu}, and this processor "
            f"({codegen.llvm_get_system_cpu()}) lacks {missing}; compile the model again "
            "with --target native"
        )


def _missing_instruction_sets(info: LibraryInfo) -> str:
    here = _instruction_sets_of_this_processor()
    return ", ".join(name for name in info.instruction_sets if name not in here)


@functools.cache
def _instruction_sets_of_this_processor() -> tuple[str, ...]:
    mcpu = codegen.llvm_get_system_cpu()
    return instruction_sets(tvm.target.Target({"kind": "llvm", "mcpu": mcpu}))

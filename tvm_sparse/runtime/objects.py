"""A compiled module becomes a shared object, in a folder that holds nothing else.

All files have names of ours, and the assembler and the linker run in that folder, so that no name
of the user's reaches them. LLVM ends the whole process if it cannot write a file. So it writes into
memory, and Python writes the disk.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Sequence
from pathlib import Path

import tvm
import tvm_ffi.libinfo
from tvm.runtime import _ffi_api

from tvm_sparse.compiling import on_all_cores
from tvm_sparse.runtime.linking import link
from tvm_sparse.runtime.quiet import quiet_runtime

_SHARED_OBJECT = "library.so"

_FILE_IN_FOLDER = re.compile(r'^(\s*\.file\s+\d+) "[^"]*" (".*")', re.MULTILINE)


def write_shared_object(
    module: tvm.runtime.Module,
    folder: Path,
    command: Sequence[str],
    objects: Sequence[bytes] = (),
) -> Path:
    """Link a compiled module into a shared object.

    Parameters
    ----------
    module : tvm.runtime.Module
        The module that TVM compiled.
    folder : Path
        An empty folder, where the shared object and all that it is made of are written.
    command : sequence of str
        The command that links.
    objects : sequence of bytes, optional
        Object files that take the place of the code in `module`, which is empty.

    Returns
    -------
    Path
        The shared object.

    Raises
    ------
    LibraryError
        If the linker fails.
    OSError
        If a file cannot be written.
    """
    sources, options = [], []
    parts = [] if objects else module._collect_dso_modules()
    for number, part in enumerate(parts):
        if part.kind == "c":
            # A model without kernels comes as C code.
            options = [f"-I{path}" for path in _headers()]
            name = f"part{number}.{next(iter(part.get_write_formats()), 'c')}"
        else:
            name = f"part{number}.{'s' if is_size_limited() else 'o'}"
        sources.append(name)
    on_all_cores(
        lambda number: _write_part(parts[number], folder / sources[number]), range(len(parts))
    )
    for number, content in enumerate(objects):
        sources.append(f"part{number}.o")
        (folder / sources[-1]).write_bytes(content)
    if module.imports:
        sources.append(_write_constants(module, folder))
    link(command, _SHARED_OBJECT, [*options, *sources], folder)
    return folder / _SHARED_OBJECT


def _headers() -> list[str]:
    return [
        tvm.libinfo.find_include_path(),
        tvm_ffi.libinfo.find_include_path(),
        tvm_ffi.libinfo.find_dlpack_include_path(),
    ]


def is_size_limited() -> bool:
    """Return whether the system limits the sizes of files, which holds for those in memory too."""
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def _write_part(part: tvm.runtime.Module, path: Path) -> None:
    """Write an object file, or source code, by way of the memory."""
    kind = path.suffix[1:]
    if kind == "s":
        # The GNU assembler does not know LLVM's second name, that of the folder.
        path.write_text(_FILE_IN_FOLDER.sub(r"\1 \2", part.inspect_source("s")))
        return
    path.write_bytes(written(part, kind))


def written(part: tvm.runtime.Module, kind: str = "o") -> bytes:
    """Return the object file of a part, or another kind of file, by way of the memory."""
    with os.fdopen(os.memfd_create("tvm_sparse"), "rb") as memory:
        part.write_to_file(f"/proc/self/fd/{memory.fileno()}", kind)
        return memory.read()


def _write_constants(module: tvm.runtime.Module, folder: Path) -> str:
    """Put the weights into an assembler file that includes them as they are, and return its name.

    TVM itself lets LLVM print the weights as one array, which takes five times the memory.
    """
    with quiet_runtime():
        packed = _ffi_api.ModulePackImportsToTensor(module).numpy()
    with (folder / "constants.bin").open("wb") as file:
        file.write(memoryview(packed))
    symbol = _ffi_api.ModuleImportsBlobName()
    # In a section for large data, the weights do not push the code more than 2 GB away from the
    # small data that it refers to.
    (folder / "constants.S").write_text(
        f"""\
#if defined(__x86_64__)
.section .lrodata,"al",@progbits
#else
.section .rodata
#endif
.globl {symbol}
.balign 64
{symbol}:
.incbin "constants.bin"
.section .note.GNU-stack,"",%progbits
"""
    )
    return "constants.S"

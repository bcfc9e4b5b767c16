"""Code that was compiled and not yet saved: an executable of TVM, and objects with its kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tvm_ffi

from tvm_sparse.files import scratch_folder
from tvm_sparse.runtime.loaded import LibraryFile, LoadedLibrary, load_code


class CompiledCode:
    """An executable of TVM beside the objects that hold its kernels.

    Parameters
    ----------
    executable : tvm_ffi.Module
        The executable, with weights and without kernels, as it is saved.
    objects : sequence of bytes
        The content of object files, which hold all kernels.
    linked : callable
        Returns the executable that calls the kernels of some modules.
    machine : str
        The name of the architecture of the kernels on Linux, such as ``"aarch64"``.
    """

    def __init__(
        self,
        executable: tvm_ffi.Module,
        objects: Sequence[bytes],
        linked: Callable[[Sequence[tvm_ffi.Module]], tvm_ffi.Module],
        machine: str,
    ) -> None:
        self.executable, self.objects = executable, objects
        self._linked, self._machine = linked, machine

    def loaded(self) -> tvm_ffi.Module:
        """Link the kernels, and return an executable that can run in this process.

        Raises
        ------
        LibraryError
            If the linker fails.
        """
        from tvm_sparse.runtime.linking import link, link_command  # with TVM's compiler

        with scratch_folder() as folder:
            names = [f"part{number}.o" for number in range(len(self.objects))]
            for name, content in zip(names, self.objects, strict=True):
                (folder / name).write_bytes(content)
            link(link_command(self._machine), "kernels.so", names, folder)
            content = (folder / "kernels.so").read_bytes()
        # Code may be forbidden to run from the folder for temporary files.
        with os.fdopen(os.memfd_create("tvm_sparse"), "wb") as file:
            file.write(content)
            file.flush()
            return self._linked([load_code(file)])


Code: TypeAlias = tvm_ffi.Module | CompiledCode | LibraryFile
"""What an engine saves, and runs if it is for this machine."""


def runnable(code: Code) -> tvm_ffi.Module:
    """Return a module that runs in this process.

    Raises
    ------
    LibraryError
        If the linker fails.
    """
    if isinstance(code, CompiledCode):
        return code.loaded()
    return code.module if isinstance(code, LoadedLibrary) else code

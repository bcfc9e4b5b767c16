"""Writing a compiled library: a shared object, packed weights behind it, and a description.

The description stands in the seal at the end of the file, where it is read before any code of the
library runs. It is also a function of the library, next to ``main``, for machines that load the
library without this package.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import tvm
from tvm import relax

from tvm_sparse.errors import LibraryError, border
from tvm_sparse.files import replacing
from tvm_sparse.runtime.code import CompiledCode
from tvm_sparse.runtime.info import LibraryInfo
from tvm_sparse.runtime.linking import link_command
from tvm_sparse.runtime.objects import write_shared_object
from tvm_sparse.runtime.seal import add_seal
from tvm_sparse.runtime.weights import append_weights

_DESCRIPTION = "tvm_sparse_description"


def describe(mod: tvm.IRModule, info: LibraryInfo) -> tvm.IRModule:
    """Return `mod` with a function that returns `info`, but for the places of the weights."""
    builder = relax.BlockBuilder(mod)
    with builder.function(_DESCRIPTION, params=[]):
        builder.emit_func_output(tvm.ir.StringImm(replace(info, weights=None).to_json()))
    return builder.get()


def write_library(
    code: tvm.runtime.Module | CompiledCode,
    path: Path,
    info: LibraryInfo,
    linker: str = "auto",
    read: Iterable[Path] = (),
    weights: Sequence[tvm.runtime.Tensor] = (),
) -> None:
    """Link a compiled module into a shared library, whole or not at all.

    Parameters
    ----------
    code : tvm.runtime.Module or CompiledCode
        What TVM compiled.
    path : Path
        The file to write.
    info : LibraryInfo
        What the library says about itself.
    linker : str
        One of `tvm_sparse.runtime.linking.LINKERS`.
    read : iterable of Path
        Files from which the code was made; the library may not replace any of them.
    weights : sequence of tensor
        The weights beside the code, as `info` says.

    Raises
    ------
    LibraryError
        If `path` cannot be written, or no linker for the machine is installed.
    """
    command = link_command(info.machine, linker)
    with (
        border(LibraryError, f"{path}: cannot be written"),
        replacing(path, LibraryError, read) as temporary,
    ):
        if isinstance(code, CompiledCode):
            module, objects = code.executable, code.objects
        else:
            module, objects = code, ()
        library = write_shared_object(module, temporary.parent, command, objects)
        if info.weights is not None:
            arrays = [tensor.numpy() for tensor in weights]
            info = replace(info, weights=append_weights(library, info.weights, arrays))
        add_seal(library, info.to_json())
        library.replace(temporary)

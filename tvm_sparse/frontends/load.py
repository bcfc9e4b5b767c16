"""The entry to all frontends: an ONNX file or a Relax module becomes an `ImportedModel`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import tvm
from tvm import relax

from tvm_sparse.errors import InputError

if TYPE_CHECKING:
    from tvm_sparse.frontends.onnx_importer import ImportedModel


def import_module(
    model: str | os.PathLike[str] | tvm.IRModule, shapes: Mapping[str, Sequence[int]] | None = None
) -> ImportedModel:
    """Return `model`, an ONNX file or a Relax module, with its inputs and outputs.

    Raises
    ------
    ModelError, InputError
        As `compile`.
    """
    from tvm_sparse.frontends.onnx_importer import ImportedModel, import_onnx, tensor_spec

    if not isinstance(model, tvm.IRModule):
        return import_onnx(model, shapes)
    if shapes:
        raise InputError("shapes= is for ONNX files; bind a Relax module's with BindSymbolicVars")
    main = model["main"]
    inputs = tuple(tensor_spec(param.name, param.ty) for param in main.params)
    types = main.ret_ty.fields if isinstance(main.ret_ty, relax.TupleType) else [main.ret_ty]
    outputs = tuple(tensor_spec(f"output_{i}", ty) for i, ty in enumerate(types))
    return ImportedModel(model, inputs, outputs)

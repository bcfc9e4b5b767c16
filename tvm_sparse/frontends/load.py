"""The entry to all frontends: an ONNX file or a Relax module becomes an `ImportedModel`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import tvm
from tvm import relax

from tvm_sparse.errors import InputError
from tvm_sparse.frontends.imported_model import ImportedModel, tensor_spec


def import_module(
    model: str | os.PathLike[str] | tvm.IRModule, shapes: Mapping[str, Sequence[int]] | None = None
) -> ImportedModel:
    """Return `model`, an ONNX file or a Relax module, with its inputs and outputs.

    Raises
    ------
    ModelError
        If the model cannot be read or imported.
    InputError
        If `shapes` does not fit the model, or is given for a Relax module.
    """
    if not isinstance(model, tvm.IRModule):
        # Late, because a machine that only loads libraries needs neither onnx nor ONNX Runtime.
        from tvm_sparse.frontends.onnx_importer import import_onnx

        return import_onnx(model, shapes)
    if shapes:
        raise InputError("shapes= is for ONNX files; bind a Relax module's with BindSymbolicVars")
    main = model["main"]
    inputs = tuple(tensor_spec(param.name, param.ty) for param in main.params)
    types = main.ret_ty.fields if isinstance(main.ret_ty, relax.TupleType) else [main.ret_ty]
    outputs = tuple(tensor_spec(f"output_{i}", ty) for i, ty in enumerate(types))
    return ImportedModel(model, inputs, outputs)

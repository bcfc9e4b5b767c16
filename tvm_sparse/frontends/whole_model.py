"""A whole model that ONNX Runtime runs, for any sizes of its inputs.

It is what is left of a model whose sizes stay open where its operators do more with them than
compiled code can follow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import tvm
from tvm import relax, tirx

from tvm_sparse.errors import ModelError, border
from tvm_sparse.frontends.fallback import summarize
from tvm_sparse.frontends.imported_model import ImportedModel, tensor_spec
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.frontends.onnx_layers import file_layers
from tvm_sparse.frontends.submodel import ModelGraph, Submodel
from tvm_sparse.frontends.value_types import ValueType, value_types
from tvm_sparse.layer_report import FILE_LAYERS
from tvm_sparse.specs import RUN_SUBMODEL


def import_whole(
    path: str | os.PathLike[str], shapes: Mapping[str, Sequence[int | str]], reason: str
) -> ImportedModel:
    """Return a model that hands its inputs to ONNX Runtime.

    Parameters
    ----------
    path : str or PathLike
        The ONNX file.
    shapes : mapping of str to shape
        The shape of every input; a string is the name of a size.
    reason : str
        Why it is not compiled.

    Raises
    ------
    ModelError
        If ONNX Runtime cannot take it, or it is too large.
    """
    model, folder = read_model(path)
    layers = [layer.to_json() | {"fallback": reason} for layer in file_layers(model, folder)]
    _name_sizes(model, shapes)
    with border(ModelError, f"{path}: ONNX Runtime cannot run it"):
        types, graph = value_types(model, folder), ModelGraph(model, folder)
        nodes = [i for i, node in enumerate(graph.nodes) if node.op_type != "Constant"]
        inputs, submodel = graph.submodel(nodes, types)
    made = {spec.name: spec for spec in submodel.outputs}
    outputs = [value.name for value in model.graph.output]
    if not made.keys() >= set(outputs):
        raise ModelError(f"{path}: ONNX Runtime computes none of the outputs that are inputs")
    params = _parameters(shapes, types)
    mod = _module(params, inputs, submodel, outputs).with_attr(FILE_LAYERS, layers)
    return ImportedModel(
        mod,
        tuple(tensor_spec(name, param.ty) for name, param in params.items()),
        tuple(made[name] for name in outputs),
        summarize(model, dict.fromkeys(nodes, reason)),
    )


def _name_sizes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Give the inputs of a model the sizes that are fixed, and the names of others."""
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        del dims[:]
        for size in shapes[value.name]:
            dim = dims.add()
            if isinstance(size, str):
                dim.dim_param = size
            else:
                dim.dim_value = size


def _parameters(
    shapes: Mapping[str, Sequence[int | str]], types: Mapping[str, ValueType]
) -> dict[str, relax.Var]:
    """Return the parameters of the function, by the names of the inputs."""
    names = dict.fromkeys(s for shape in shapes.values() for s in shape if isinstance(s, str))
    sizes = {name: tirx.Var(name, "int64") for name in names}
    params = {}
    for name, shape in shapes.items():
        extents = [sizes[s] if isinstance(s, str) else tirx.IntImm("int64", s) for s in shape]
        params[name] = relax.Var(name, relax.TensorType(extents, types[name].dtype))
    return params


def _module(
    params: Mapping[str, relax.Var],
    inputs: Sequence[str],
    submodel: Submodel,
    outputs: Sequence[str],
) -> tvm.IRModule:
    """Return a function that calls ONNX Runtime with some of its parameters."""
    types = [relax.TensorType(dtype=s.dtype, ndim=len(s.shape)) for s in submodel.outputs]
    builder = relax.BlockBuilder()
    with builder.function("main", list(params.values())):
        with builder.dataflow():
            call = relax.call_pure_packed(
                RUN_SUBMODEL,
                tvm.ir.StringImm(submodel.key),
                relax.const(np.frombuffer(submodel.content, "uint8")),
                *(params[name] for name in inputs),
                ty_args=types[0] if len(types) == 1 else relax.TupleType(types),
            )
            found = builder.emit(call)
            place = {spec.name: i for i, spec in enumerate(submodel.outputs)}
            fields = [
                found if len(types) == 1 else builder.emit(relax.TupleGetItem(found, place[name]))
                for name in outputs
            ]
            result = builder.emit_output(fields[0] if len(fields) == 1 else relax.Tuple(fields))
        builder.emit_func_output(result)
    return builder.get()

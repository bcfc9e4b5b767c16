"""Values of nodes as the importer sees them: without elements, foreign ones, shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax

from tvm_sparse.frontends.element_types import DTYPES
from tvm_sparse.frontends.nodes import reads
from tvm_sparse.frontends.value_types import ValueType


def foreign_operand(foreign: Mapping[str, str], node: onnx.NodeProto) -> str:
    """Return why a node falls back that reads elements of a type that is not compiled, or nothing.

    Parameters
    ----------
    foreign : mapping of str to str
        The constants of such types, and what these are called.
    node : onnx.NodeProto
        A node that is to be converted.
    """
    found = next((name for name in reads(node) if name in foreign), None)
    return "" if found is None else f"it works on {found!r}, an array of {foreign[found]}"


def foreign_result(values: Mapping[str, Any], node: onnx.NodeProto) -> str:
    """Return why a node falls back whose elements have a type that is not compiled, or nothing.

    Parameters
    ----------
    values : mapping of str to object
        What the importer made of the values of the graph.
    node : onnx.NodeProto
        A node that was converted.
    """
    for name in node.output:
        value = values.get(name)
        ty = value.ty if isinstance(value, relax.Expr) else None
        if isinstance(ty, relax.TensorType) and str(ty.dtype) not in DTYPES:
            return f"its result {name!r} is an array of {ty.dtype}"
    return ""


def empty_results(values: dict[str, Any], node: onnx.NodeProto) -> None:
    """Replace the results of a node that have no values by constants, in `values`.

    Kernels and passes may divide by the extents of what is computed.
    """
    for name in node.output:
        value = values.get(name)
        ty = value.ty if isinstance(value, relax.Var) else None
        if not isinstance(ty, relax.TensorType) or ty.shape is None:
            continue
        shape = [int(size) for size in ty.shape if isinstance(size, tvm.tirx.IntImm)]
        if 0 in shape and len(shape) == len(ty.shape):
            values[name] = relax.const(np.zeros(shape, str(ty.dtype)), str(ty.dtype))


def are_empty(values: dict[str, Any], node: onnx.NodeProto, types: Mapping[str, ValueType]) -> bool:
    """Return whether no result of a node has a value; they are then constants in `values`.

    Parameters
    ----------
    values : dict of str to object
        What the importer made of the values of the graph.
    node : onnx.NodeProto
        A node that could not be converted.
    types : mapping of str to ValueType
        The types of the graph's values, as far as they are known.
    """
    found = {name: types.get(name) for name in node.output if name}
    empty = {
        name: np.zeros(ty.shape, ty.dtype)
        for name, ty in found.items()
        if ty is not None and ty.is_static and ty.shape is not None and 0 in ty.shape
    }
    if len(empty) < len(found):
        return False
    values |= {name: relax.const(array, str(array.dtype)) for name, array in empty.items()}
    return True


def type_difference(found: relax.TensorType, standard: onnx.TypeProto) -> str:
    """Return how a type differs from one of ONNX in what is known of both; empty if it does not."""
    wanted = standard.tensor_type
    if wanted.elem_type:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(wanted.elem_type))
        if str(found.dtype) != dtype:
            return f"{found.dtype}, and it is {dtype} by the standard"
    if not wanted.HasField("shape") or found.ndim < 0:
        return ""
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in wanted.shape.dim]
    made = list(found.shape) if found.shape is not None else [None] * found.ndim
    known = [int(size) if isinstance(size, tvm.tirx.IntImm) else None for size in made]
    if len(sizes) != len(known) or any(
        a != b and a is not None and b is not None for a, b in zip(sizes, known, strict=True)
    ):
        return f"of shape {known}, and it is {sizes} by the standard"
    return ""


def input_shapes(graph: onnx.GraphProto) -> dict[str, list[Any]]:
    """Return the shapes of the inputs of a graph, with a variable for each named dimension."""
    sizes: dict[str, tvm.tirx.Var] = {}

    def extent(dim: Any) -> Any:
        if not dim.dim_param:
            return dim.dim_value
        return sizes.setdefault(dim.dim_param, tvm.tirx.Var(dim.dim_param, "int64"))

    return {
        value.name: [extent(dim) for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
    }


def tensor(expr: relax.Expr) -> relax.Expr:
    """Return a shape that is known as a constant, and all else as it is."""
    if isinstance(expr, relax.ShapeExpr):
        return relax.const(np.array([int(size) for size in expr.values], "int64"), "int64")
    return expr

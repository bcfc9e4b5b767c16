"""Positions that a decoder counts itself => positions that it is given.

A file without an input of positions counts them from the number of past tokens::

    positions = Range(past, past + new), or Range(0, new) + past, or CumSum(mask) - 1

Whatever computes them, they are found by their values: at two numbers of past tokens, an array of
integers that counts the new tokens is one of positions. An input takes its place.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tvm_sparse.frontends.decoders.evaluation import computed
from tvm_sparse.frontends.nodes import needed, reads

POSITIONS = "tvm_sparse_position_ids"
"""The name of the new input."""

_ROWS, _PASTS = 3, (5, 9)
_SCALING = ("Cast", "Mul")
"""What may become of embeddings before their shape is asked for, such as in Gemma."""
_COUNTING = ("Range", "Add", "Sub", "Slice", "Where")
"""Operators whose results may be positions."""


def with_positions(model: onnx.ModelProto, folder: Path, ids: str) -> onnx.ModelProto:
    """Return a decoder whose positions are an input; `model` itself if it counts none.

    Parameters
    ----------
    model : onnx.ModelProto
        The decoder.
    folder : Path
        The folder that the locations of its external weights are relative to.
    ids : str
        The input that holds the tokens.
    """
    if any("position" in value.name for value in model.graph.input):
        return model
    found = _found(model, folder, ids)
    if not found:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    dims = next(value for value in graph.input if value.name == ids).type.tensor_type.shape
    given = helper.make_tensor_value_info(POSITIONS, TensorProto.INT64, None)
    given.type.tensor_type.shape.CopyFrom(dims)
    graph.input.append(given)
    for name, values in found.items():
        place, node = next((i, n) for i, n in enumerate(graph.node) if name in n.output)
        graph.node.remove(node)
        shape = f"{name}_shape"
        sizes = [-1 if size == _ROWS else size for size in values.shape]
        graph.initializer.append(numpy_helper.from_array(np.array(sizes), shape))
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        graph.node.insert(
            place, helper.make_node("Reshape", [POSITIONS, shape], [f"{name}_given"], name=shape)
        )
        graph.node.insert(
            place + 1, helper.make_node("Cast", [f"{name}_given"], [name], name=name, to=kind)
        )
    return changed


def _found(model: onnx.ModelProto, folder: Path, ids: str) -> dict[str, NDArray[np.generic]]:
    """Return arrays of positions, at the second number of past tokens, by the names of values."""
    light = _light(model.graph, ids)
    names = [n.output[0] for n in light if n.op_type in _COUNTING]
    if not names:
        return {}
    results = [
        computed(model, folder, light, names, functools.partial(_fed, past=past)) for past in _PASTS
    ]
    counting: dict[str, NDArray[np.generic]] = {}
    for name, *arrays in zip(names, *results, strict=True):
        if all(_counts(array, past) for array, past in zip(arrays, _PASTS, strict=True)):
            counting[name] = arrays[1]
    # What is computed of positions is computed of the input.
    makers = [
        (name, {out for node in needed(light, [name]) for out in node.output}) for name in counting
    ]
    return {
        name: counting[name] for name, made in makers if counting.keys().isdisjoint(made - {name})
    }


def _counts(array: NDArray[np.generic], past: int) -> bool:
    return (
        array.dtype.kind == "i"
        and array.size == max(array.shape, default=0) == _ROWS
        and np.array_equal(array.ravel(), np.arange(past, past + _ROWS))
    )


def _light(graph: onnx.GraphProto, ids: str) -> list[onnx.NodeProto]:
    """Return the nodes that read nothing but shapes of inputs, masks and constants."""
    inputs = {value.name for value in graph.input}
    known = {name for name in inputs if "mask" in name} | {t.name for t in graph.initializer}
    shaped, embedded = set(inputs), set[str]()
    nodes = []
    for node in graph.node:
        read = reads(node)
        if node.op_type == "Shape" and node.input[0] in shaped:
            known.update(node.output)
        elif node.op_type == "Gather" and ids in node.input and known.issuperset(node.input[:1]):
            # The embeddings of tokens, of which the shape is known, too.
            shaped.update(node.output)
            embedded.update(node.output)
        elif node.op_type in _SCALING and embedded & {*read} and known | embedded >= {*read}:
            shaped.update(node.output)
            embedded.update(node.output)
        elif known.issuperset(read):
            known.update(node.output)
            shaped.update(node.output)
        else:
            continue
        nodes.append(node)
    return nodes


def _fed(value: onnx.ValueInfoProto, past: int) -> NDArray[np.generic]:
    """Return what an input is for a number of past tokens; of most only the shape is read."""
    kind = value.type.tensor_type
    dims = [dim.dim_value for dim in kind.shape.dim]
    if len(dims) == 4:
        shape = [1, dims[1] or 1, past, dims[3] or 1]
    elif len(dims) == 2:
        shape = [1, past + _ROWS if "mask" in value.name else _ROWS]
    else:
        shape = [dim or 1 for dim in dims]
    return np.ones(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type))

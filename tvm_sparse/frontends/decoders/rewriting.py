"""A decoder's graph => the graph of a call on a fixed number of tokens, with caches in place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.converters.cached import DOMAIN
from tvm_sparse.frontends.decoders.attention import STATE, FoundAttention
from tvm_sparse.frontends.nodes import needed, reads
from tvm_sparse.sizes.cached_attention import STATE_COLUMNS
from tvm_sparse.sizes.decoder import CacheSpec

_PREFIX = "tvm_sparse_"
_CACHE_TYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "float32",
}
_ROWWISE = {"Add", "Cast", "Div", "Identity", "Mul", "Tanh"}
"""Operators that may follow the head, each of whose results comes from one element."""
_COUNT = 3
"""The column of the state that says how many rows a sequence has."""
_PRODUCTS = {"Gemm", "MatMul", "MatMulNBits"}


def cache_of(graph: onnx.GraphProto, attention: FoundAttention) -> CacheSpec:
    """Return the cache of an attention, which is an input ``(batch, heads, past, head_dim)``.

    Raises
    ------
    ModelError
        If it has another shape or type.
    """
    types = {value.name: value.type.tensor_type for value in graph.input}
    dims = [dim.dim_value for dim in types[attention.past[0]].shape.dim]
    head_dim = dims[3] or attention.head_dim if len(dims) == 4 else 0
    if not head_dim or not dims[1]:
        raise ModelError(
            f"the cache {attention.past[0]!r} must have the shape (batch, heads, past, channels), "
            "with the numbers of heads and channels"
        )
    dtype = _CACHE_TYPES.get(types[attention.past[0]].elem_type)
    if dtype is None:
        raise ModelError(
            f"the cache {attention.past[0]!r} has elements of another type than float32 and "
            "float16, which is not supported"
        )
    return CacheSpec(dims[1], head_dim, attention.cache or dtype)


def rewrite(
    model: onnx.ModelProto,
    attentions: Sequence[FoundAttention],
    ids: str,
    rows: int,
    last_only: bool,
) -> onnx.ModelProto:
    """Return the model of a call.

    Parameters
    ----------
    model : onnx.ModelProto
        The decoder; its weights are shared with the result as far as Python allows.
    attentions : sequence of FoundAttention
        All attentions with a cache.
    ids : str
        The input that holds the tokens.
    rows : int
        The tokens of a call.
    last_only : bool
        Whether the call computes the logits of the last token only.

    Raises
    ------
    ModelError
        If the graph needs another input than tokens and positions.
    """
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    specs = [cache_of(graph, attention) for attention in attentions]
    places = [f"{_PREFIX}places{i}" for i in range(len(specs))]
    inputs = [
        helper.make_tensor_value_info(ids, types[ids], [1, rows]),
        helper.make_tensor_value_info(STATE, TensorProto.INT32, [rows, STATE_COLUMNS]),
    ]
    replaced: dict[str, list[onnx.NodeProto]] = {}
    made: list[onnx.TensorProto] = []
    for place, spec, attention in zip(places, specs, attentions, strict=True):
        replaced[attention.result] = _with_sizes(attention, spec).replacement(place)
        for name, array in attention.constants().items():
            if name not in {tensor.name for tensor in made}:
                made.append(numpy_helper.from_array(array, name))
        inputs.append(helper.make_tensor_value_info(place, TensorProto.INT64, [2, rows]))
    result = logits_of(graph, attentions)
    nodes = [
        new
        for node in graph.node
        for new in next((replaced[name] for name in node.output if name in replaced), [node])
    ]
    positions = [name for name in types if "position" in name and name != STATE]
    for name in positions:
        nodes[:0] = _positions(name, types[name], rows, made)
    if last_only:
        nodes = _with_last_row(nodes, result, made)
    nodes = needed(nodes, [result])
    read = {name for node in nodes for name in reads(node)}
    others = read & types.keys() - {ids, *positions}
    if states := sorted(name for name in others if "past" in name):
        raise ModelError(
            f"the input {states[0]!r} is a state other than keys and values of an attention, such "
            "as that of a convolution or a recurrence; sessions keep no such states"
        )
    if others:
        raise ModelError(
            f"the decoder computes with the input {sorted(others)[0]!r} outside of attention; "
            "sessions give it tokens and positions only"
        )
    output = onnx.ValueInfoProto(name=result, type=_element_type(graph, result))
    weights = [tensor for tensor in (*graph.initializer, *made) if tensor.name in read]
    new = helper.make_graph(nodes, graph.name or "decoder", inputs, [output], weights)
    opsets = [*model.opset_import, helper.make_opsetid(DOMAIN, 1)]
    changed = helper.make_model(new, opset_imports=opsets, ir_version=model.ir_version)
    changed.functions.extend(model.functions)
    return changed


def logits_of(graph: onnx.GraphProto, attentions: Iterable[FoundAttention]) -> str:
    """Return the output that is no cache.

    Raises
    ------
    ModelError
        If there is none, or if there are several.
    """
    caches = {name for attention in attentions for name in attention.present}
    others = [value.name for value in graph.output if value.name not in caches]
    if "logits" in others:
        return "logits"
    if len(others) != 1:
        named = ", ".join(map(repr, others)) or "none"
        raise ModelError(
            f"a decoder must have one output 'logits' beside its caches; it has {named}"
        )
    return others[0]


def table_rows(model: onnx.ModelProto) -> int:
    """Return the rows of the smallest table of positions that a rewritten model has, else 0."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    rows, offsets = [], _position_offsets(model.graph)
    for node in model.graph.node:
        for position in {"RotaryEmbedding": (1, 2, 3), "CachedAttention": (3,)}.get(
            node.op_type, ()
        ):
            name = node.input[position] if position < len(node.input) else ""
            if len(shapes.get(name, ())) == 2:
                rows.append(int(shapes[name][0]))
        if node.op_type == "Gather" and node.input[1] in offsets and node.input[0] in shapes:
            rows.append(int(shapes[node.input[0]][0]) - offsets[node.input[1]])
    return min(rows, default=0)


def _position_offsets(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the values that are positions plus a number, such as 2 in OPT."""
    numbers = {
        tensor.name: int(numpy_helper.to_array(tensor).ravel()[0])
        for tensor in graph.initializer
        if not tensor.dims or list(tensor.dims) == [1]
        if tensor.data_type in (TensorProto.INT64, TensorProto.INT32)
    }
    offsets: dict[str, int] = {}
    for node in graph.node:
        read = [offsets[name] for name in node.input if name in offsets]
        if node.op_type == "Cast" and node.input[0].startswith(_PREFIX):
            offsets[node.output[0]] = 0
        elif read and node.op_type in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"):
            offsets[node.output[0]] = read[0]
        elif read and node.op_type == "Add":
            added = [numbers[name] for name in node.input if name in numbers]
            if added:
                offsets[node.output[0]] = read[0] + added[0]
    return offsets


def _with_sizes(attention: FoundAttention, spec: CacheSpec) -> FoundAttention:
    scale = attention.attributes.get("scale") or 1 / math.sqrt(spec.head_dim)
    sizes = {"scale": scale, "head_dim": spec.head_dim, "cache_type": spec.dtype}
    return replace(attention, attributes={**attention.attributes, **sizes})


def _element_type(graph: onnx.GraphProto, name: str) -> onnx.TypeProto:
    (found,) = (value for value in graph.output if value.name == name)
    kind = onnx.TypeProto()
    kind.tensor_type.elem_type = found.type.tensor_type.elem_type
    return kind


def _positions(
    name: str, kind: int, rows: int, made: list[onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """Return the nodes that compute positions ``(1, rows)``, which are a column of the state."""
    own = f"{_PREFIX}{rows}_{name}"  # other numbers of rows have other constants
    made.append(numpy_helper.from_array(np.array(0), f"{own}_0"))
    made.append(numpy_helper.from_array(np.array([1, rows]), f"{own}_shape"))
    return [
        _gather(STATE, f"{own}_0", f"{own}_column", axis=1),
        helper.make_node("Reshape", [f"{own}_column", f"{own}_shape"], [f"{own}_row"], name=own),
        helper.make_node("Cast", [f"{own}_row"], [name], name=name, to=kind),
    ]


def _gather(values: str, places: str, output: str, axis: int) -> onnx.NodeProto:
    return helper.make_node("Gather", [values, places], [output], name=output, axis=axis)


def _with_last_row(
    nodes: list[onnx.NodeProto], result: str, made: list[onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """Let the head of the network read the last token only."""
    makers = {name: node for node in nodes for name in node.output}
    head = makers[result]
    while head.op_type in _ROWWISE and (above := [makers[n] for n in head.input if n in makers]):
        head = above[0]
    read = head.input[0] if head.op_type in _PRODUCTS else result
    at = f"{_PREFIX}last"
    made.append(numpy_helper.from_array(np.array([0]), f"{at}_0"))
    made.append(numpy_helper.from_array(np.array(_COUNT), f"{at}_3"))
    made.append(numpy_helper.from_array(np.array([1], "int32"), f"{at}_one"))
    picking = [
        _gather(STATE, f"{at}_0", f"{at}_sequence", axis=0),
        _gather(f"{at}_sequence", f"{at}_3", f"{at}_count", axis=1),
        helper.make_node("Sub", [f"{at}_count", f"{at}_one"], [at], name=at),
    ]
    if read == result:
        every = f"{_PREFIX}every_row"
        pick = _gather(every, at, result, axis=1)
        renamed = onnx.NodeProto()
        renamed.CopyFrom(makers[result])
        renamed.output[list(renamed.output).index(result)] = every
        others = [renamed if node is makers[result] else node for node in nodes]
        return [*others, *picking, pick]
    row = f"{at}_row"
    pick = _gather(read, at, row, axis=1)
    changed = onnx.NodeProto()
    changed.CopyFrom(head)
    changed.input[0] = row
    place = next(i for i, node in enumerate(nodes) if node is head)
    return [*nodes[:place], *picking, pick, changed, *nodes[place + 1 :]]

"""Attention of the ONNX standard, opsets 23 and up, with a cache.

A cache comes as `past_key` and `past_value`, to which the operator appends; or TensorScatter writes
the new keys and values into tensors that have room for them; or Concat appends them, and heads are
repeated for the queries that share them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.decoders.attention import FoundAttention, Lengths
from tvm_sparse.frontends.decoders.extended_caches import ExtendedCache, extended_caches
from tvm_sparse.frontends.decoders.masks import Mask, mask_of

_READ = {"is_causal", "q_num_heads", "kv_num_heads", "scale", "softcap", "softmax_precision"}
_PAST = slice(4, 6)
_REPEATING = {"Cast", "Identity", "Unsqueeze", "Expand", "Reshape"}


def is_form(graph: onnx.GraphProto) -> bool:
    """Return whether a graph has such attentions, whose caches are its inputs."""
    inputs = {value.name for value in graph.input}
    return any(inputs.issuperset(_past(graph, node)) for node in _nodes(graph))


def find(model: onnx.ModelProto, folder: Path, lengths: Lengths) -> Iterator[FoundAttention]:
    """Yield the attentions of a decoder at fixed lengths.

    Raises
    ------
    ModelError
        If one has an attribute, an input or a mask that is not supported.
    """
    graph = model.graph
    inputs = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
    masks: dict[tuple[str, bool], Mask] = {}
    for node in _nodes(graph):
        where = f"node {node.name!r} (Attention)"
        past = _past(graph, node)
        if not inputs.keys() >= set(past):
            raise ModelError(f"{where}: all attentions of a decoder must have caches")
        if not _repeats_heads(graph, node, lengths):
            raise ModelError(f"{where}: its keys or values are no repeated heads of a cache")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        for name, value in attributes.items():
            if name not in _READ and value:
                raise ModelError(f"{where}: its attribute {name!r} ({value!r}) is not supported")
        if len(node.output) > 3 and node.output[3]:
            raise ModelError(f"{where}: its output 'qk_matmul_output' is not supported")
        mask, is_causal = [*node.input, ""][3], bool(attributes.get("is_causal", 0))
        if not mask and not is_causal:
            raise ModelError(
                f"{where}: without a mask and 'is_causal', the tokens of a prompt see later ones"
            )
        key = mask, is_causal
        if mask and key not in masks:
            masks[key] = mask_of(model, folder, {mask: 1.0}, lengths.rows, lengths.past, is_causal)
        found = masks.get(key, Mask())
        if found.slopes and attributes.get("softcap", 0.0):
            raise ModelError(f"{where}: slopes of scores that are softly limited")
        kv_heads = inputs[past[0]][1].dim_value
        heads_first = "q_num_heads" not in attributes
        yield FoundAttention(
            node=node.name,
            past=past,
            present=_present(graph, node),
            result=node.output[0],
            rows=_rows(graph, node),
            heads_first=heads_first,
            slopes=found.slopes,
            attributes={
                "num_heads": lengths.heads(node.input[0])
                if heads_first
                else attributes["q_num_heads"],
                "kv_num_heads": kv_heads,
                "scale": float(attributes.get("scale", 0.0)),
                "softcap": float(attributes.get("softcap", 0.0)),
                "window": found.window,
            },
        )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        if node.op_type == "Attention" and node.domain in ("", "ai.onnx"):
            yield node


def _scatters(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nodes that write the keys and values which an attention reads."""
    makers = {name: other for other in graph.node for name in other.output}
    found: list[Any] = [makers.get(name) for name in node.input[1:3]]
    is_scattered = all(one is not None and one.op_type == "TensorScatter" for one in found)
    return found if is_scattered else []


def _repeats(graph: onnx.GraphProto, name: str) -> Iterator[onnx.NodeProto]:
    """Yield the nodes between a cache that Concat extends and a value, from the value on."""
    makers = {name: other for other in graph.node for name in other.output}
    caches = extended_caches(graph)
    while name not in caches and name in makers and makers[name].op_type in _REPEATING:
        yield makers[name]
        name = makers[name].input[0]


def _extended(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[ExtendedCache]:
    """Return the caches of keys and values, extended by Concat, which an attention reads."""
    caches, found = extended_caches(graph), []
    for name in node.input[1:3]:
        nodes = list(_repeats(graph, name))
        found.append(caches.get(nodes[-1].input[0] if nodes else name))
    return [one for one in found if one is not None] if all(found) else []


def _repeats_heads(graph: onnx.GraphProto, node: onnx.NodeProto, lengths: Lengths) -> bool:
    """Return whether the heads of extended caches are repeated one by one, if there are some."""
    shapes = lengths.shapes
    return not _extended(graph, node) or all(
        shapes[one.input[0]][2] == 1
        if one.op_type == "Expand"
        else one.op_type != "Reshape" or shapes[one.input[0]][-2:] == shapes[one.output[0]][-2:]
        for name in node.input[1:3]
        for one in _repeats(graph, name)
    )


def _past(graph: onnx.GraphProto, node: onnx.NodeProto) -> tuple[str, str]:
    scatters = _scatters(graph, node)
    names = [one.input[0] for one in scatters] or [one.past for one in _extended(graph, node)]
    names = names or [*node.input, *[""] * 6][_PAST]
    return names[0], names[1]


def _present(graph: onnx.GraphProto, node: onnx.NodeProto) -> tuple[str, str]:
    scatters = _scatters(graph, node)
    names = [one.output[0] for one in scatters] or [one.present for one in _extended(graph, node)]
    names = names or [*node.output, "", ""][1:3]
    return names[0], names[1]


def _rows(graph: onnx.GraphProto, node: onnx.NodeProto) -> tuple[str, ...]:
    scatters = _scatters(graph, node)
    for one in scatters:
        mode = {a.name: helper.get_attribute_value(a) for a in one.attribute}
        if mode.get("mode", b"linear") != b"linear" or mode.get("axis", -2) not in (-2, 2):
            raise ModelError(f"node {one.name!r} (TensorScatter): only linear, axis 2 is supported")
    updates = [one.input[1] for one in scatters]
    updates = updates or [one.node.input[1] for one in _extended(graph, node)] or node.input[1:3]
    return (node.input[0], *updates)

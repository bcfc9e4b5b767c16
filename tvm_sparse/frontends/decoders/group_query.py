"""GroupQueryAttention of com.microsoft, as the model builder of onnxruntime-genai writes it.

The files say that past and present share one buffer. Lengths and positions are computed from the
attention mask; a session knows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx
from onnx import helper

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.decoders.attention import FoundAttention
from tvm_sparse.frontends.decoders.channels import Channels

_READ = {
    "num_heads", "kv_num_heads", "scale", "do_rotary", "rotary_interleaved", "local_window_size",
    "softcap",
}  # fmt: skip
_IGNORED = {
    "sliding_window_cache", "kv_cache_bit_width", "qk_norm_epsilon", "q_norm_epsilon",
    "k_norm_epsilon",
}  # fmt: skip
"""Attributes of how the caller stores a cache, which a session does in its own way; and of inputs
that are refused."""
_DEFAULTS: Mapping[str, Any] = {"smooth_softmax": (0, -1), "qk_output": (0,), "causal": (1,)}
"""Values of other attributes that change nothing."""
_SINK = 11
_OTHER_INPUTS = {
    10: "attention_bias", 12: "k_scale", 13: "v_scale", 14: "q_norm_weight", 15: "k_norm_weight",
    16: "query_seqlens",
}  # fmt: skip
"""Inputs behind the position ids, which are those of the tokens in the cache."""


def is_form(graph: onnx.GraphProto) -> bool:
    """Return whether a graph has such attentions, whose caches are its inputs."""
    inputs = {value.name for value in graph.input}
    return any(inputs.issuperset(node.input[3:5]) for node in _nodes(graph))


def find(model: onnx.ModelProto) -> Iterator[FoundAttention]:
    """Yield the attentions of a decoder.

    Raises
    ------
    ModelError
        If one has an attribute or an input that is not supported.
    """
    graph = model.graph
    constants, channels = {tensor.name for tensor in graph.initializer}, Channels(graph)
    for node in _nodes(graph):
        inputs = [*node.input, *[""] * 17]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        where = f"node {node.name!r} (GroupQueryAttention)"
        for name, value in attributes.items():
            if name not in _READ | _IGNORED and value not in _DEFAULTS.get(
                name, (0, b"", b"NONE", "NONE")
            ):
                raise ModelError(f"{where}: its attribute {name!r} ({value!r}) is not supported")
        for place, name in _OTHER_INPUTS.items():
            if inputs[place]:
                raise ModelError(f"{where}: its input {name!r} is not supported")
        tables = tuple(inputs[7:9]) if attributes.get("do_rotary", 0) else ()
        if not constants.issuperset(tables):
            raise ModelError(
                f"{where}: its tables of cosines and sines are computed; they must be constants "
                "(models whose tables depend on the length of the sequence are not supported)"
            )
        window = attributes.get("local_window_size", -1)
        given = {
            "num_heads": attributes["num_heads"],
            "kv_num_heads": attributes["kv_num_heads"],
            "scale": float(attributes.get("scale", 0.0)),
            "softcap": float(attributes.get("softcap", 0.0)),
            "window": max(int(window), 0),
            "interleaved": int(attributes.get("rotary_interleaved", 0)),
        }
        yield FoundAttention(
            node=node.name,
            past=(inputs[3], inputs[4]),
            present=(node.output[1], node.output[2]),
            result=node.output[0],
            rows=tuple(filter(None, inputs[:3])),
            tables=tables,
            sinks=inputs[_SINK],
            head_dim=channels.of(inputs[0]) // _sharing(node, attributes),
            attributes=given,
        )


def cache_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, int, int]]:
    """Return what a caller that feeds caches must know of them, by the names of the inputs.

    The shapes are ``(heads, positions, channels)``. There are 0 positions at first, unless the
    attention forgets the tokens before its window by itself.
    """
    channels = Channels(graph)
    shapes: dict[str, tuple[int, int, int]] = {}
    for node in _nodes(graph):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        is_window = attributes.get("sliding_window_cache", 0)
        positions = attributes["local_window_size"] if is_window else 0
        head_dim = channels.of(node.input[0]) // _sharing(node, attributes)
        shapes |= dict.fromkeys(node.input[3:5], (attributes["kv_num_heads"], positions, head_dim))
    return shapes


def _sharing(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> int:
    """Return how many heads the channels of the first operand are."""
    heads = int(attributes["num_heads"])
    return heads if node.input[1] else heads + 2 * int(attributes["kv_num_heads"])


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        if node.op_type == "GroupQueryAttention" and node.domain == "com.microsoft":
            yield node

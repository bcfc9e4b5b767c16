"""Caches of keys and values that a decoder extends by Concat."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

_COPYING = ("Cast", "Identity")


@dataclass(frozen=True)
class ExtendedCache:
    """A cache with the new tokens: the node that extends it, the input and the output."""

    node: onnx.NodeProto
    past: str
    present: str


def extended_caches(graph: onnx.GraphProto) -> dict[str, ExtendedCache]:
    """Return the extended caches by the values that hold them."""
    given = {value.name for value in graph.input}
    inputs = {value.name for value in graph.input if len(value.type.tensor_type.shape.dim) == 4}
    outputs = {value.name for value in graph.output}
    copies = {node.input[0]: node.output[0] for node in graph.node if node.op_type in _COPYING}
    # torch.cat of one tensor, as the cache of transformers writes it.
    alone = {
        n.output[0]: n.input[0] for n in graph.node if n.op_type == "Concat" and len(n.input) == 1
    }
    inputs |= {name for name, whole in alone.items() if whole in inputs}
    found: dict[str, ExtendedCache] = {}
    for node in graph.node:
        if (
            node.op_type == "Concat"
            and len(node.input) == 2
            and node.input[0] in inputs
            and node.input[1] not in given
            and _axis(node) in (2, -2)
        ):
            names = node.output[0], copies.get(node.output[0], "")
            present = next((name for name in names if name in outputs), "")
            if present:
                past = alone.get(node.input[0], node.input[0])
                found |= {name: ExtendedCache(node, past, present) for name in names if name}
    return found


def _axis(node: onnx.NodeProto) -> int:
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == "axis")

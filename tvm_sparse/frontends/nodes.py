"""Nodes of ONNX: their operators, and the values that they read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import onnx


def qualified(node: onnx.NodeProto) -> str:
    """Return the operator of a node, with its domain if that is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def reads(node: onnx.NodeProto) -> list[str]:
    """Return the values that a node reads, those that its inner graphs capture too."""
    names = dict.fromkeys(name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names |= dict.fromkeys(_captured(graph))
    return list(names)


def needed(
    nodes: Sequence[onnx.NodeProto], results: Iterable[str], given: Collection[str] = ()
) -> list[onnx.NodeProto]:
    """Return the nodes that results depend on, in their order; given values need none."""
    wanted, kept = set(results).difference(given), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            kept.append(node)
            wanted.update(name for name in reads(node) if name not in given)
    return kept[::-1]


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    own = {value.name for value in (*graph.input, *graph.initializer)}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        yield from (name for name in reads(node) if name not in own)
        own.update(node.output)
    yield from (value.name for value in graph.output if value.name not in own)

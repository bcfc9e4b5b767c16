"""The nodes of a subgraph, with names of their own in the graph around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class Inlined:
    """A copy of a subgraph for the graph around it.

    Attributes
    ----------
    nodes : list of onnx.NodeProto
        Its nodes.
    constants : list of onnx.TensorProto
        Its constants, whose names are the same for all copies with the same `shared` prefix.
    outputs : list of str
        The names of its outputs.
    """

    nodes: list[onnx.NodeProto]
    constants: list[onnx.TensorProto]
    outputs: list[str]


def inlined(graph: onnx.GraphProto, given: Mapping[str, str], prefix: str, shared: str) -> Inlined:
    """Return a copy of a subgraph.

    Parameters
    ----------
    graph : onnx.GraphProto
        The subgraph.
    given : mapping of str to str
        The value around it that each of its inputs gets.
    prefix, shared : str
        What the names of its values, and those of its constants, begin with.
    """
    names, constants, nodes = dict(given), [], []
    for tensor in graph.initializer:
        if tensor.name not in names:
            constants.append(_constant(tensor, shared + tensor.name))
            names[tensor.name] = shared + tensor.name
    for node in graph.node:
        tensor = constant_of(node)
        if tensor is not None:
            constants.append(_constant(tensor, shared + node.output[0]))
            names[node.output[0]] = shared + node.output[0]
            continue
        names |= {name: prefix + name for name in node.output if name}
        copy = _renamed(node, names)
        copy.name = prefix + (node.name or f"{node.op_type}_of_{node.output[0]}")
        nodes.append(copy)
    return Inlined(nodes, constants, [names.get(o.name, o.name) for o in graph.output])


def constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the dense tensor of a node Constant, None for any other node."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    return next((a.t for a in node.attribute if a.name == "value"), None)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the subgraphs of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nodes_within(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of all subgraphs in it."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from nodes_within(inner)


def names_read_within(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names that the branches and bodies in a graph read."""
    for inner in (inner for node in graph.node for inner in subgraphs(node)):
        yield from (name for node in inner.node for name in node.input)
        yield from (value.name for value in inner.output)
        yield from names_read_within(inner)


def _constant(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for values in (copy.input, copy.output):
        renamed = [names.get(name, name) for name in values]
        del values[:]
        values.extend(renamed)
    for graph in subgraphs(copy):
        _rename_outside(graph, names)
    return copy


def _rename_outside(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename what a subgraph reads from the graphs around it, in place."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    outside = {name: new for name, new in names.items() if name not in own}
    for node in graph.node:
        renamed = [outside.get(name, name) for name in node.input]
        del node.input[:]
        node.input.extend(renamed)
        for inner in subgraphs(node):
            _rename_outside(inner, outside)
    for value in graph.output:
        value.name = outside.get(value.name, value.name)

"""Other nodes in the place of one."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from tvm_sparse.frontends.nodes import needed, reads


def replace_node(
    model: onnx.ModelProto,
    place: int,
    nodes: Iterable[onnx.NodeProto],
    tensors: Iterable[onnx.TensorProto],
) -> None:
    """Put nodes and constants in the place of a node, and drop all that is read no more.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, which is changed.
    place : int
        The position of the node.
    nodes : iterable of onnx.NodeProto
        What computes its results instead.
    tensors : iterable of onnx.TensorProto
        Constants that they read.
    """
    graph = model.graph
    old = list(graph.node)
    _keep_needed(model, [*old[:place], *nodes, *old[place + 1 :]], [*graph.initializer, *tensors])


def drop_unused(model: onnx.ModelProto) -> None:
    """Drop the nodes and constants of a model that are read by nothing."""
    _keep_needed(model, list(model.graph.node), list(model.graph.initializer))


def _keep_needed(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]
) -> None:
    graph = model.graph
    outputs = [value.name for value in graph.output]
    kept = needed(nodes, outputs)
    used = {*outputs} | {name for node in kept for name in reads(node)}
    kept_tensors = [tensor for tensor in tensors if tensor.name in used]
    replace_all(model, kept, kept_tensors)


def replace_all(
    model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], tensors: Iterable[onnx.TensorProto]
) -> None:
    """Let a model have these nodes and constants only, which may be its own."""
    graph, copies = model.graph, []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    tensors = list(tensors)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(copies)
    graph.initializer.extend(tensors)

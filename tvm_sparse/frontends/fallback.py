"""Nodes of an ONNX model that ONNX Runtime shall run become nodes `SUBMODEL`, one for each group.

The nodes of a group, with their weights, are an ONNX model of their own, a `Submodel`. What crosses
the border between groups and other nodes are arrays of known shape: where that is not so, the
nodes that read them join the group. Only a model's output may have a shape known at run time only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import helper

from tvm_sparse.frontends.convex_groups import between, convex_groups, order_of_groups
from tvm_sparse.frontends.nodes import qualified, reads
from tvm_sparse.frontends.submodel import ModelGraph, Submodel
from tvm_sparse.frontends.value_types import ValueType, with_sampled_shapes
from tvm_sparse.specs import Fallback

DOMAIN = "tvm_sparse"
"""The domain of the operator `SUBMODEL`."""

SUBMODEL = "Submodel"
"""The operator that stands for a group of nodes; its attribute ``key`` names the `Submodel`."""


@dataclass(frozen=True)
class Partition:
    """A model, some of whose nodes are parts for ONNX Runtime.

    Attributes
    ----------
    model : onnx.ModelProto
        The model, with a node `SUBMODEL` for each part.
    submodels : dict of str to Submodel
        The parts by their keys.
    fallbacks : tuple of Fallback
        Which nodes they hold, and why.
    """

    model: onnx.ModelProto
    submodels: dict[str, Submodel]
    fallbacks: tuple[Fallback, ...]


def partition(
    model: onnx.ModelProto,
    folder: Path,
    types: Mapping[str, ValueType],
    reasons: Mapping[int, str],
) -> Partition:
    """Return `model` with parts for ONNX Runtime.

    Parameters
    ----------
    model : onnx.ModelProto
        A model whose inputs have static shapes; it is not changed.
    folder : Path
        The folder that the locations of external weights are relative to.
    types : mapping of str to ValueType
        The types of its values.
    reasons : mapping of int to str
        Why each of these nodes of the main graph, by its position, cannot be compiled.

    Raises
    ------
    ModelError
        If an output of the model is no array, or a part is larger than 2 GB.
    """
    graph = ModelGraph(model, folder)
    reasons, sampled = _with_readers(graph, types, reasons)
    types = _with_open_outputs(graph, types, sampled, reasons)
    groups = {group[0]: group for group in convex_groups(graph.successors, reasons)}
    parts = onnx.ModelProto()
    parts.CopyFrom(model)
    del parts.graph.node[:]
    submodels = {}
    for unit in order_of_groups(graph.successors, list(groups.values())):
        nodes = [graph.nodes[position] for position in unit]
        if unit[0] not in groups:
            parts.graph.node.extend(nodes)
            continue
        inputs, submodel = graph.submodel(unit, types)
        if not submodel.outputs:
            continue
        submodels[submodel.key] = submodel
        parts.graph.node.append(
            helper.make_node(
                SUBMODEL,
                inputs,
                [spec.name for spec in submodel.outputs],
                name=nodes[0].name,
                domain=DOMAIN,
                key=submodel.key,
            )
        )
    _drop_unread(parts.graph)
    return Partition(parts, submodels, summarize(model, reasons))


def summarize(model: onnx.ModelProto, reasons: Mapping[int, str]) -> tuple[Fallback, ...]:
    """Return the nodes that have reasons, those with the same operator and reason together."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for position in sorted(reasons):
        node = model.graph.node[position]
        kinds.setdefault((qualified(node), reasons[position]), []).append(node.name)
    return tuple(
        Fallback(tuple(nodes), operator, reason) for (operator, reason), nodes in kinds.items()
    )


def _with_readers(
    graph: ModelGraph, types: Mapping[str, ValueType], reasons: Mapping[int, str]
) -> tuple[dict[int, str], Mapping[str, ValueType]]:
    """Return `reasons` with the nodes that must join a group, and `types` as far as needed."""
    found, sampled = graph.with_constants_readers(reasons), set[str]()
    while True:
        open_names = sorted(_unknown_outputs(graph, types, found) - sampled)
        if open_names:
            sampled.update(open_names)
            types = with_sampled_shapes(types, graph.model, graph.folder, open_names)
        joining: dict[int, str] = {}
        for name, producer in graph.producer.items():
            for reader in graph.readers[name]:
                if producer not in found and reader not in found:
                    continue
                # Two nodes that fall back may be in groups that a node of ours keeps apart.
                is_inside = producer in found and reader in found
                reason = _refusal(name, types[name], producer not in found, is_inside)
                if reason:
                    joining |= dict.fromkeys(
                        between(graph.successors, graph.predecessors, producer, reader), reason
                    )
        joining = {node: reason for node, reason in joining.items() if node not in found}
        if not joining:
            return found, types
        found |= joining


def _unknown_outputs(
    graph: ModelGraph, types: Mapping[str, ValueType], reasons: Mapping[int, str]
) -> set[str]:
    """Return the arrays of unknown shape that leave groups."""
    return {
        name
        for position in reasons
        for name in graph.nodes[position].output
        if name
        and types[name].dtype is not None
        and not types[name].is_static
        and (
            name in graph.outputs
            or types[name].shape is None
            or any(node not in reasons for node in graph.readers[name])
        )
    }


def _with_open_outputs(
    graph: ModelGraph,
    types: Mapping[str, ValueType],
    sampled: Mapping[str, ValueType],
    reasons: Mapping[int, str],
) -> dict[str, ValueType]:
    """Return `sampled`, where outputs of the model keep only what holds for all inputs.

    Nobody but the user reads them, so their shapes need not be known.
    """
    known = dict(sampled)
    for name in graph.outputs.intersection(graph.producer):
        first, last = types[name], sampled[name]
        inside = [graph.producer[name], *graph.readers[name]]
        if not all(node in reasons for node in inside):
            continue
        if last.shape is None:
            known[name] = first
        elif first.shape is None or len(first.shape) != len(last.shape):
            known[name] = replace(last, shape=(-1,) * len(last.shape))
        else:
            known[name] = first
    return known


def _refusal(name: str, found: ValueType, is_ours: bool, is_inside: bool) -> str:
    """Return why a value cannot cross the border of a group, empty if it can.

    A value that is inside of ONNX Runtime's parts may have open dimensions, but a known rank.
    """
    if found.dtype is None:
        return f"it works on {name!r}, a {found.described}"
    if is_inside:
        known = found.shape is not None
        return "" if known else f"it works on {name!r}, whose rank is known only at run time"
    if not is_ours and not found.is_static:
        return f"it works on {name!r}, whose shape is known only at run time"
    return ""


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Drop the weights and constants that only parts read."""
    read = {name for node in graph.node for name in reads(node)}
    read |= {value.name for value in graph.output}
    nodes = [node for node in graph.node if node.op_type != "Constant" or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(nodes)
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    sparse = [tensor for tensor in graph.sparse_initializer if tensor.values.name in read]
    del graph.initializer[:], graph.sparse_initializer[:]
    graph.initializer.extend(weights)
    graph.sparse_initializer.extend(sparse)

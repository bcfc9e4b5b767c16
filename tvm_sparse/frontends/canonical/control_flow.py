"""If, Loop and Scan are written out where what they decide is known before the model runs.

An If whose condition is known becomes the nodes of its branch. A Loop becomes the nodes of its
iterations, if the number of iterations is known: by its trip count, by its condition in every
iteration, or both. So does a Scan, whose inputs have as many parts as it has iterations. What a
file may blow up is bounded by `MOST_NODES` and `MOST_WEIGHT_BYTES`; larger loops stay, and so do
loops of nodes that only ONNX Runtime runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tvm_sparse.frontends.canonical.known_values import KnownValues
from tvm_sparse.frontends.canonical.static_types import static_types
from tvm_sparse.frontends.canonical.subgraphs import constant_of, inlined, nodes_within

CONTROL_FLOW = ("If", "Loop", "Scan")
"""The operators that are written out."""

MOST_NODES = 512
"""Nodes that the loops of a model may become altogether; each takes about 30 ms of compile time."""

MOST_WEIGHT_BYTES = 1 << 26
"""Bytes of the weights that all iterations of a loop read, each of which packs its own."""


def write_out(
    model: onnx.ModelProto, folder: Path, is_converted: Callable[[onnx.NodeProto], bool]
) -> onnx.ModelProto:
    """Write out the control flow of a model, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, whose inputs have static shapes.
    folder : Path
        The folder that the locations of external weights are relative to.
    is_converted : callable
        Returns whether a node can be compiled; loops of other nodes stay as they are.
    """
    budget = MOST_NODES
    while any(node.op_type in CONTROL_FLOW for node in model.graph.node):
        writer = _Writer(model, folder, is_converted, budget)
        nodes = [new for node in model.graph.node for new in writer.written(node)]
        if not writer.done:
            break
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(writer.constants)
        budget = writer.budget
    return model


class _Unknown(Exception):
    """Something is not known before the model runs, or too large."""


class _Writer:
    """Writes out the control flow of the main graph, one node after another."""

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        is_converted: Callable[[onnx.NodeProto], bool],
        budget: int,
    ) -> None:
        self._types = static_types(model)
        self._shapes = {
            name: shape for name, (_, shape) in self._types.items() if shape is not None
        }
        self._known = KnownValues(model, self._shapes, folder)
        self._is_converted, self.budget = is_converted, budget
        self._opset = next(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1
        )
        self._bytes = {tensor.name: tensor.ByteSize() for tensor in model.graph.initializer}
        self._names = {name for node in nodes_within(model.graph) for name in node.output}
        self._names |= {tensor.name for tensor in model.graph.initializer}
        self.constants: list[TensorProto] = []
        self.done = False

    def written(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that a node becomes; itself if it stays."""
        if node.op_type not in CONTROL_FLOW or node.domain not in ("", "ai.onnx"):
            return [node]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        part = _Part(self._free(node), self._opset)
        try:
            write = {"If": self._if, "Loop": self._loop, "Scan": self._scan}[node.op_type]
            write(node, attributes, part)
        # What lacks an attribute or an operand is no valid node; who runs it says so.
        except (_Unknown, IndexError, KeyError, ValueError):
            return [node]
        self.constants += part.constants.values()
        self._known.add(part.nodes, part.constants.values())
        self.done = True
        return part.nodes

    def _free(self, node: onnx.NodeProto) -> str:
        """Return the beginning of names that nothing has."""
        prefix = (node.name or f"{node.op_type}_of_{next(filter(None, node.output), '')}") + "/"
        while any(name.startswith(prefix) for name in self._names):
            prefix = prefix[:-1] + "_/"
        self._names.add(prefix)
        return prefix

    def _if(self, node: onnx.NodeProto, attributes: dict[str, Any], part: _Part) -> None:
        condition = self._known.value(node.input[0])
        if condition is None or condition.size != 1:
            raise _Unknown
        branch = attributes["then_branch" if condition.item() else "else_branch"]
        if branch.sparse_initializer:
            raise _Unknown
        part.rename(part.inline(branch, {}, ""), node.output)

    def _loop(self, node: onnx.NodeProto, attributes: dict[str, Any], part: _Part) -> None:
        body = attributes["body"]
        trips, condition = (self._scalar(node, position) for position in (0, 1))
        limit = MOST_NODES + 1 if trips is None else max(int(trips), 0)
        carried = list(node.input[2:])
        scanned: list[list[str]] = [[] for _ in body.output[1 + len(carried) :]]
        going, count = condition is None or bool(condition), 0
        each = self._size(body)
        names = [value.name for value in body.input]
        going_name = part.constant("going", np.array(True))
        while going and count < limit:
            self._check(body, count + 1, each)
            number = part.constant(f"{count}", np.array(count, "int64"))
            given = dict(zip(names, [number, going_name, *carried], strict=True))
            again, *results = part.inline(body, given, f"{count}/")
            self._known.add(part.nodes, part.constants.values())
            value = self._known.value(again)
            if value is None or value.size != 1:
                raise _Unknown
            going = bool(value.item())
            carried = results[: len(carried)]
            for parts, name in zip(scanned, results[len(carried) :], strict=True):
                parts.append(name)
            count += 1
        self.budget -= count * each
        part.rename(carried, node.output)
        for parts, name in zip(scanned, node.output[len(carried) :], strict=False):
            self._stack(part, parts, name, 0)

    def _scalar(self, node: onnx.NodeProto, position: int) -> int | bool | None:
        """Return the number that an operand holds, None if it is not given."""
        if position >= len(node.input) or not node.input[position]:
            return None
        value = self._known.value(node.input[position])
        if value is None or value.size != 1:
            raise _Unknown
        return value.item()

    def _scan(self, node: onnx.NodeProto, attributes: dict[str, Any], part: _Part) -> None:
        body, scans = attributes["body"], attributes["num_scan_inputs"]
        states = list(node.input[: len(node.input) - scans])
        sources = list(node.input[len(states) :])
        results = len(node.output) - len(states)
        axes = attributes.get("scan_input_axes", [0] * scans)
        backwards = attributes.get("scan_input_directions", [0] * scans)
        shapes = [self._shapes.get(source) for source in sources]
        lengths = {
            shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
            for shape, axis in zip(shapes, axes, strict=True)
        }
        if len(lengths) != 1 or self._opset < 9:
            raise _Unknown
        (length,) = lengths
        if length is None:
            raise _Unknown
        each = self._size(body) + scans
        self._check(body, length, each)
        scanned: list[list[str]] = [[] for _ in range(results)]
        names = [value.name for value in body.input]
        for i in range(length):
            slices = []
            for number, (source, axis) in enumerate(zip(sources, axes, strict=True)):
                at = length - 1 - i if backwards[number] else i
                place = part.constant(f"{at}", np.array(at, "int64"))
                slices.append(part.add("Gather", [source, place], f"{i}/in{number}", axis=axis))
            given = dict(zip(names, [*states, *slices], strict=True))
            outputs = part.inline(body, given, f"{i}/")
            states = outputs[: len(states)]
            for parts, name in zip(scanned, outputs[len(states) :], strict=True):
                parts.append(name)
        self.budget -= length * each
        part.rename(states, node.output)
        axes = attributes.get("scan_output_axes", [0] * results)
        backwards = attributes.get("scan_output_directions", [0] * results)
        for number, name in enumerate(node.output[len(states) :]):
            parts = scanned[number]
            self._stack(part, parts[::-1] if backwards[number] else parts, name, axes[number])

    def _size(self, body: onnx.GraphProto) -> int:
        return sum(1 for _ in nodes_within(body)) + len(body.output)

    def _check(self, body: onnx.GraphProto, count: int, each: int) -> None:
        """Refuse more iterations than are worth their nodes and weights."""
        if count * each > self.budget or body.sparse_initializer:
            raise _Unknown
        nodes = list(nodes_within(body))
        if not all(node.op_type in CONTROL_FLOW or self._is_converted(node) for node in nodes):
            raise _Unknown
        reads = {name for node in nodes for name in node.input}
        weight_bytes = sum(self._bytes.get(name, 0) for name in reads)
        own = [*body.initializer, *filter(None, map(constant_of, nodes))]
        weight_bytes += sum(tensor.ByteSize() for tensor in own)
        if count > 1 and count * weight_bytes > MOST_WEIGHT_BYTES:
            raise _Unknown

    def _stack(self, part: _Part, parts: list[str], name: str, axis: int) -> None:
        """Bind `name` to the values of all iterations along a new axis."""
        if not name:
            return
        if parts:
            rows = [part.unsqueeze(row, axis, f"{name}/{i}") for i, row in enumerate(parts)]
            part.nodes.append(
                helper.make_node("Concat", rows, [name], part.prefix + name, axis=axis)
            )
            return
        dtype, shape = self._types.get(name, (0, None))
        if not dtype or shape is None or 0 not in shape:
            raise _Unknown
        empty = np.zeros(shape, helper.tensor_dtype_to_np_dtype(dtype))
        part.rename([part.constant(f"{name}/empty", empty)], [name])


class _Part:
    """The nodes and constants that a node of control flow becomes."""

    def __init__(self, prefix: str, opset: int) -> None:
        self.prefix, self._opset = prefix, opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def inline(self, graph: onnx.GraphProto, given: dict[str, str], suffix: str) -> list[str]:
        """Add a copy of a subgraph; return the names of its outputs."""
        copy = inlined(graph, given, self.prefix + suffix, self.prefix + "constants/")
        self.nodes += copy.nodes
        self.constants |= {tensor.name: tensor for tensor in copy.constants}
        return copy.outputs

    def add(self, operator: str, inputs: list[str], name: str, **attributes: int) -> str:
        """Add a node of one output; return the name of that."""
        name = self.prefix + name
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add a constant; return its name."""
        name = f"{self.prefix}number/{name}"
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def unsqueeze(self, source: str, axis: int, name: str) -> str:
        """Add an axis of one element."""
        if self._opset < 13:
            name = self.prefix + name
            self.nodes.append(helper.make_node("Unsqueeze", [source], [name], name, axes=[axis]))
            return name
        axes = self.constant(f"axis{axis}", np.array([axis], "int64"))
        return self.add("Unsqueeze", [source, axes], name)

    def rename(self, sources: list[str], names: list[str]) -> None:
        """Bind names to values; empty names stand for nothing."""
        for source, name in zip(sources, names, strict=False):
            if name:
                node = helper.make_node("Identity", [source], [name], self.prefix + name)
                self.nodes.append(node)

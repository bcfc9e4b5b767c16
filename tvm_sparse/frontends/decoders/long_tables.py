"""Tables of angles that a model chooses by the length of a sequence.

Models with LongRoPE, such as Phi 3 and 4, have angles of short sequences and of long ones::

    cos, sin = If(total length > n): the tables of long sequences, else those of short ones

The two fit no common cache, since keys are rotated before they are stored. Sessions get the tables
of short sequences, and hold up to `n` tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tvm_sparse.frontends.onnx_file import tensor_array


def with_short_tables(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return a decoder with the tables of short sequences as weights.

    The result is `model` itself if it chooses no tables. External weights lie in `folder`.
    """
    found = {
        node.name: tables
        for node in model.graph.node
        if (tables := _short(model.graph, node, folder))
    }
    if not found:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in [node for node in changed.graph.node if node.name in found]:
        changed.graph.node.remove(node)
    for tables in found.values():
        for name, values in tables.items():
            changed.graph.initializer.append(numpy_helper.from_array(values, name))
    return changed


def _short(graph: onnx.GraphProto, node: onnx.NodeProto, folder: Path) -> Mapping[str, np.ndarray]:
    """Return the tables of short sequences by the outputs of an If; none if it chooses others."""
    makers = {name: other for other in graph.node for name in other.output}
    condition = makers.get(node.input[0]) if node.op_type == "If" else None
    if condition is None or condition.op_type != "Greater":
        return {}
    length, most = makers.get(condition.input[0]), _value(graph, condition.input[1], folder)
    if length is None or length.op_type != "Gather" or most is None or most.size != 1:
        return {}
    shape = makers.get(length.input[0])
    if shape is None or shape.op_type != "Shape" or "mask" not in shape.input[0]:
        return {}
    (branch,) = (a.g for a in node.attribute if a.name == "else_branch")
    tables = [_value(branch, value.name, folder) for value in branch.output]
    if any(table is None or table.ndim != 2 for table in tables):
        return {}
    rows = int(most.ravel()[0])
    return {
        name: table[:rows]
        for name, table in zip(node.output, tables, strict=True)
        if table is not None
    }


def _value(graph: onnx.GraphProto, name: str, folder: Path) -> np.ndarray | None:
    """Return a constant of a graph."""
    for tensor in graph.initializer:
        if tensor.name == name:
            return tensor_array(tensor, folder)
    for node in graph.node:
        if name in node.output and node.op_type == "Constant":
            return next(
                (tensor_array(a.t, folder) for a in node.attribute if a.name == "value"), None
            )
    return None

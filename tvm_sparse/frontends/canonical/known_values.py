"""What small tensors hold that depend on constants and on static shapes only.

Exporters write shape arithmetic as nodes. They are computed here one by one, with bounds on what
they may hold, because a file says how long they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tvm_sparse.frontends.onnx_file import tensor_array

MOST_VALUES = 1 << 10
"""Values of a tensor above which it is no shape arithmetic."""

_DEEPEST = 200
"""Nodes behind one another above which nothing is known."""

# None of them makes many values of few: those that could broadcast get vectors only.
_OF_VECTORS = frozenset(
    {
        "Add", "And", "Concat", "Div", "Equal", "Gather", "Greater", "GreaterOrEqual", "Less",
        "LessOrEqual", "Max", "Min", "Mod", "Mul", "Or", "Slice", "Sub", "Where", "Xor",
    }
)  # fmt: skip
_OF_TENSORS = frozenset(
    {
        "Abs", "Cast", "Ceil", "Floor", "Identity", "Neg", "Not", "ReduceMax", "ReduceMin",
        "ReduceProd", "ReduceSum", "Reshape", "Squeeze", "Unsqueeze",
    }
)  # fmt: skip

Shape = tuple[int, ...]


class KnownValues:
    """The values of a graph that are known before it runs.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.
    shapes : mapping of str to tuple of int
        The shapes of values, as far as they are static.
    folder : Path
        The folder that the locations of external weights are relative to.
    """

    def __init__(self, model: onnx.ModelProto, shapes: Mapping[str, Shape], folder: Path) -> None:
        self._shapes, self._folder = shapes, folder
        self._opsets = list(model.opset_import)
        self._constants: dict[str, TensorProto] = {}
        self._producers: dict[str, onnx.NodeProto] = {}
        self._found: dict[str, np.ndarray | None] = {}
        # A model of the first versions of ONNX lists its constants among its inputs, too.
        self.add(model.graph.node, model.graph.initializer)

    def add(self, nodes: Iterable[onnx.NodeProto], constants: Iterable[TensorProto]) -> None:
        """Take in more nodes and constants."""
        self._constants |= {tensor.name: tensor for tensor in constants}
        for node in nodes:
            self._producers |= {name: node for name in node.output if name}

    def value(self, name: str, depth: int = 0) -> np.ndarray | None:
        """Return what a tensor holds, or None if it is not known or too large."""
        if name not in self._found:
            try:
                found = self._compute(name, depth)
            # NumPy and the reference implementation have many errors; whoever runs the node, too.
            except Exception:
                found = None
            self._found[name] = None if found is None or found.size > MOST_VALUES else found
        return self._found[name]

    def _compute(self, name: str, depth: int) -> np.ndarray | None:
        if name in self._constants:
            tensor = self._constants[name]
            size = int(np.prod(tensor.dims, dtype=object))
            return tensor_array(tensor, self._folder) if size <= MOST_VALUES else None
        node = self._producers.get(name)
        if node is None or node.domain not in ("", "ai.onnx") or depth > _DEEPEST:
            return None
        if node.op_type in ("Constant", "Shape", "Size"):
            return self._simple(node)
        if node.op_type not in _OF_VECTORS | _OF_TENSORS:
            return None
        operands = {operand: self.value(operand, depth + 1) for operand in node.input if operand}
        known = {operand: value for operand, value in operands.items() if value is not None}
        if len(known) < len(operands):
            return None
        if node.op_type in _OF_VECTORS and any(value.ndim > 1 for value in known.values()):
            return None
        graph = helper.make_graph(
            [node],
            "node",
            [helper.make_value_info(operand, onnx.TypeProto()) for operand in known],
            [helper.make_value_info(name, onnx.TypeProto())],
        )
        model = helper.make_model(graph, opset_imports=self._opsets)
        (result,) = ReferenceEvaluator(model).run(None, known)
        return np.asarray(result)

    def _simple(self, node: onnx.NodeProto) -> np.ndarray | None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            for kind, dtype in (("int", "int64"), ("float", "float32")):
                for key in (f"value_{kind}", f"value_{kind}s"):
                    if key in attributes:
                        return np.asarray(attributes[key], dtype)
            tensor = attributes.get("value")
            return None if tensor is None else tensor_array(tensor, self._folder)
        shape = self._shapes.get(node.input[0])
        if shape is None:
            return None
        if node.op_type == "Size":
            return np.asarray(np.prod(shape, dtype="int64"))
        return np.asarray(shape[attributes.get("start", 0) : attributes.get("end")], "int64")

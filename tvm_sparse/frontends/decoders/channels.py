"""How many channels a value of a decoder has, where the file does not say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import helper, numpy_helper

_LIKE_FIRST = {
    "Cast", "Identity", "LayerNormalization", "QuickGelu", "RMSNormalization", "RotaryEmbedding",
    "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
}  # fmt: skip
"""Operators whose first result has as many channels as their first operand."""
_ELEMENTWISE = {"Add", "Div", "Mul", "Sub"}


class Channels:
    """Finds the last extents of values by the weights that make them.

    Parameters
    ----------
    graph : onnx.GraphProto
        A decoder.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._makers = {name: node for node in graph.node for name in node.output}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}

    def of(self, name: str) -> int:
        """Return the channels of a value, 0 if they are not found."""
        tensor = self._constant(name)
        if tensor is not None:
            return int(tensor.dims[-1]) if tensor.dims else 1
        node = self._makers.get(name)
        if node is None:
            return 0
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "MatMulNBits":
            return int(attributes["N"])
        if node.op_type in ("MatMul", "Gemm", "DequantizeLinear"):
            return self._product(node, attributes)
        if node.op_type == "Reshape":
            return max(self._numbers(node.input[1])[-1:] or [0])
        if node.op_type == "Split":
            return self._part(node, list(node.output).index(name))
        if node.op_type in _ELEMENTWISE:
            return max(self.of(operand) for operand in node.input)
        return self.of(node.input[0]) if node.op_type in _LIKE_FIRST else 0

    def _product(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> int:
        if node.op_type == "DequantizeLinear":
            return self.of(node.input[0])
        weight = self._constant(node.input[1])
        if attributes.get("transB", 0) and weight is not None:
            return int(weight.dims[0])
        return self.of(node.input[1])

    def _part(self, node: onnx.NodeProto, place: int) -> int:
        sizes = self._numbers(node.input[1]) if len(node.input) > 1 else []
        return sizes[place] if sizes else self.of(node.input[0]) // len(node.output)

    def _numbers(self, name: str) -> list[int]:
        tensor = self._constant(name)
        return [] if tensor is None else numpy_helper.to_array(tensor).ravel().tolist()

    def _constant(self, name: str) -> onnx.TensorProto | None:
        node = self._makers.get(name)
        if node is None or node.op_type != "Constant":
            return self._weights.get(name)
        return next((a.t for a in node.attribute if a.name == "value"), None)

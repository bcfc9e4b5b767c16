"""DynamicQuantizeLSTM of com.microsoft: an LSTM that rounds its inputs and the states of each step.

The inputs of all steps are rounded to 8 bits by their range, and the states that a step reads by
theirs. Both are multiplied by weights of integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.frontends.converters.node import Node
from tvm_sparse.frontends.converters.quantized import dequantized, dynamic_range, quantized
from tvm_sparse.frontends.onnx_recurrent import RecurrentNode

_OPERANDS = {3: "bias", 5: "initial_h", 6: "initial_c", 7: "peepholes"}
"""The inputs that an LSTM has, too, by their positions."""


def dynamic_quantize_lstm(node: Node) -> Any:
    """Convert DynamicQuantizeLSTM with constant weights."""
    if node.inputs[4] is not None:
        raise NotImplementedError("its input 'sequence_lens' is not supported")
    node.attributes.get("hidden_size")
    given = {name: node.inputs[i] for i, name in _OPERANDS.items() if node.inputs[i] is not None}
    return _Quantized(node, given).convert()


class _Quantized(RecurrentNode):
    """Weights are ``(directions, inputs, rows)``, with a scale for a direction or for each row."""

    def __init__(self, node: Node, given: dict[str, relax.Expr]) -> None:
        self.node = node
        recurrent, scale, zero = self._weight(2, "R", 10)
        distances = recurrent.astype(np.float32) - zero[:, None].astype(np.float32)
        given["x"] = node.inputs[0]
        given["r"] = relax.const(np.ascontiguousarray(distances.transpose(0, 2, 1)))
        given["scale"] = relax.const(scale)
        super().__init__(lambda expr, _suffix="": node.emit(expr), "LSTM", given, node.attributes)

    def _weight(
        self, position: int, name: str, of_scale: int
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[Any]]:
        """Return a weight, and the scales and zero points of each of its rows."""
        values = self.node.required(position, name)
        directions, _, rows = values.shape
        scale = self.node.required(of_scale, f"{name}_scale")
        zero = self.node.constant(of_scale + 1, f"{name}_zero_point")
        zero = np.zeros(directions, values.dtype) if zero is None else zero
        scale, zero = (
            np.ascontiguousarray(
                np.broadcast_to(numbers.reshape(directions, -1), (directions, rows))
            )
            for numbers in (scale, zero)
        )
        return values, scale, zero

    def _problem(self) -> dict[str, Any]:
        return {**super()._problem(), "rounds": True}

    def _operands(self) -> dict[str, relax.Expr]:
        return {**super()._operands(), "scale": self.given["scale"]}

    def _multiplied(self, x: relax.Expr) -> relax.Expr:
        node = self.node
        weight, scale, zero = self._weight(1, "W", 8)
        inputs = weight.shape[1]
        integers = np.ascontiguousarray(weight.transpose(1, 0, 2).reshape(inputs, -1))
        steps = dynamic_range(node, x)
        rounded = dequantized(node, quantized(node, x, *steps, "uint8"), *steps)
        of_rows = relax.const(scale.reshape(-1)), relax.const(zero.reshape(-1))
        floats = dequantized(node, relax.const(integers), *of_rows, -1)
        return node.emit(relax.op.matmul(rounded, floats))

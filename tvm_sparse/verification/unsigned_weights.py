"""int8 weights => uint8 weights with zero points 128 higher: the same numbers.

ONNX Runtime multiplies unsigned by signed bytes on x86 processors without VNNI in sums of 16 bits,
and cuts off what does not fit. Its products of two unsigned operands are exact, so that a reference
has to have such weights. It has no kernels of signed inputs and unsigned weights, so that products
of two signed operands stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tvm_sparse.frontends.onnx_file import tensor_array

_OPERANDS = {
    "ConvInteger": ((1, 3, 2),),
    "DynamicQuantizeLSTM": ((1, 9, None), (2, 11, None)),
    "DynamicQuantizeMatMul": ((1, 3, None),),
    "MatMulInteger": ((1, 3, 2),),
    "MatMulIntegerToFloat": ((1, 5, 4),),
    "QAttention": ((1, 7, 6),),
    "QGemm": ((3, 5, 2),),
    "QLinearConv": ((3, 5, 2),),
    "QLinearMatMul": ((3, 5, 2),),
}
"""Operators of integers: for each weight its position, that of its zero point, and that of the zero
point of the other operand, if it has one."""

_HIGHER = 128


def with_unsigned_weights(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return a model whose constant int8 weights are uint8; `model` itself if it has none.

    Parameters
    ----------
    model : onnx.ModelProto
        It stays as it is.
    folder : Path
        The folder that the locations of external weights are relative to.
    """
    signed = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8
    }
    inputs = {
        value.name
        for value in model.graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.INT8
    }
    found = [node for node in model.graph.node if _weights(node, signed, inputs)]
    if not found:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    made: dict[str, str] = {}

    def higher(name: str) -> str:
        """Return the name of a constant that is 128 higher."""
        if name not in made:
            made[name] = f"{name or 'zero'}_of_unsigned_weights"
            values = np.zeros((), np.int16)
            if name:
                values = tensor_array(signed[name], folder).astype(np.int16)
            tensor = (values + _HIGHER).astype(np.uint8)
            changed.graph.initializer.append(numpy_helper.from_array(tensor, made[name]))
        return made[name]

    for node in changed.graph.node:
        for position, zero in _weights(node, signed, inputs):
            while len(node.input) <= zero:
                node.input.append("")
            node.input[position] = higher(node.input[position])
            node.input[zero] = higher(node.input[zero])
    return changed


def _weights(
    node: onnx.NodeProto, signed: Collection[str], inputs: Collection[str]
) -> list[tuple[int, int]]:
    """Return the positions of a node's int8 weights and of their zero points.

    Those with a computed zero point are left out, and so are those that meet a signed operand: its
    zero point is, or it is one of the `inputs` of that type.
    """

    def name(position: int | None) -> str:
        is_given = position is not None and position < len(node.input)
        return str(node.input[position]) if is_given else ""

    if node.op_type not in _OPERANDS or name(0) in inputs:
        return []
    return [
        (weight, zero)
        for weight, zero, other in _OPERANDS[node.op_type]
        if name(weight) in signed
        and (not name(zero) or name(zero) in signed)
        and name(other) not in signed
    ]

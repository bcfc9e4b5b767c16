"""Constants of 4 bits, and constants with a scale for each block, become what they stand for.

TVM has no tensors of 4 bits, and its DequantizeLinear has one scale for a tensor or for an axis.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tvm_sparse.frontends.canonical.replaced_nodes import drop_unused
from tvm_sparse.frontends.onnx_file import tensor_array

_FOUR_BITS = (TensorProto.INT4, TensorProto.UINT4)


def dequantize_constants(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Compute DequantizeLinear of constants that TVM cannot hold, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.
    folder : Path
        The folder that the locations of external weights are relative to.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    kept = []
    for node in graph.node:
        if not _is_to_compute(node, constants):
            kept.append(node)
            continue
        values, scale, *zero = (tensor_array(constants[i], folder) for i in node.input if i)
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
        array = dequantized(values, scale, zero[0] if zero else None, axis, block)
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)
        drop_unused(model)
    return model


def _is_to_compute(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> bool:
    if node.op_type != "DequantizeLinear" or node.domain not in ("", "ai.onnx"):
        return False
    if not all(name in constants for name in node.input if name):
        return False
    blocks = any(a.name == "block_size" and a.i for a in node.attribute)
    return blocks or constants[node.input[0]].data_type in _FOUR_BITS


def dequantized(
    values: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None = None,
    axis: int = 1,
    block: int = 0,
) -> np.ndarray:
    """Return ``(values - zero_point) * scale``, with the element type of `scale`.

    `scale` and `zero_point` hold one number, one for each entry of an axis, or one for each
    `block` entries of it.
    """

    def spread(operand: np.ndarray) -> np.ndarray:
        if block:
            wide = np.repeat(operand, block, axis)
            return np.take(wide, range(values.shape[axis]), axis)
        if operand.ndim == 0 or operand.size == 1:
            return operand.reshape(())
        shape = [1] * values.ndim
        shape[axis] = -1
        return operand.reshape(shape)

    exact = values.astype("int32")
    if zero_point is not None:
        exact = exact - spread(zero_point.astype("int32"))
    return (exact.astype(scale.dtype) * spread(scale)).astype(scale.dtype)

"""The quantized operators that ONNX Runtime adds to the standard, in the domain com.microsoft.

They become float operators between (de)quantizations, like those of the standard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from tvm_sparse.formats.blocks import BITS, BlockCodes, misfit, unpacked
from tvm_sparse.frontends.canonical.block_constants import dequantized as dequantized_array
from tvm_sparse.frontends.converters.node import Node
from tvm_sparse.frontends.converters.quantized import (
    dequantized,
    dynamic_range,
    operand,
    quantized,
)
from tvm_sparse.passes.ir import operators


def binary(function: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Callable[[Node], Any]:
    """Return the converter of an operator of two quantized tensors, such as QLinearAdd."""

    def convert(node: Node) -> Any:
        result = node.emit(function(operand(node, 0), operand(node, 3)))
        steps = node.inputs[6], node.inputs[7], node.dtype(0)
        return quantized(node, result, *steps, to_even=True)

    return convert


def unary(
    function: Callable[[Node, relax.Expr], relax.Expr], *, to_even: bool = False
) -> Callable[[Node], Any]:
    """Return the converter of an operator of one quantized tensor, such as QLinearSigmoid.

    ONNX Runtime adds the zero point before it rounds in those with `to_even`, in `binary`, too, and
    in the others behind it.
    """

    def convert(node: Node) -> Any:
        result = node.emit(function(node, operand(node, 0)))
        steps = node.inputs[3], node.inputs[4], node.dtype(0)
        return quantized(node, result, *steps, to_even=to_even)

    return convert


def leaky_relu(node: Node, x: relax.Expr) -> relax.Expr:
    """Return the leaky ReLU of floats."""
    return relax.op.nn.leakyrelu(x, float(node.attributes.get("alpha", 0.01)))


def sigmoid(_node: Node, x: relax.Expr) -> relax.Expr:
    """Return the sigmoid of floats."""
    return relax.op.sigmoid(x)


def softmax(node: Node, x: relax.Expr) -> relax.Expr:
    """Return the softmax of floats; before opset 13, it is one of all axes from `axis` on."""
    opset, axis = int(node.attributes.get("opset", 13)), int(node.attributes.get("axis", -1))
    shape = node.shape(0)
    axis %= len(shape)
    if opset >= 13 or axis == len(shape) - 1:
        return relax.op.nn.softmax(x, axis)
    rows = node.emit(relax.op.reshape(x, (int(np.prod(shape[:axis])), -1)))
    return relax.op.reshape(node.emit(relax.op.nn.softmax(rows, 1)), shape)


def average_pool(node: Node, x: relax.Expr) -> relax.Expr:
    """Return the average pooling of floats."""
    _refuse_channels_last(node)
    return node.convert("AveragePool", [x], node.attributes)


def global_average_pool(node: Node, x: relax.Expr) -> relax.Expr:
    """Return the averages of images of floats."""
    _refuse_channels_last(node)
    return node.convert("GlobalAveragePool", [x], node.attributes)


def concat(node: Node) -> Any:
    """Convert QLinearConcat, whose operands follow the scale and zero point of the result."""
    count = (len(node.inputs) - 2) // 3
    parts = [operand(node, 2 + 3 * i) for i in range(count)]
    joined = node.emit(relax.op.concat(parts, int(node.attributes["axis"])))
    return quantized(node, joined, node.inputs[0], node.inputs[1], node.dtype(2))


def where(node: Node) -> Any:
    """Convert QLinearWhere."""
    result = node.emit(relax.op.where(node.inputs[0], operand(node, 1), operand(node, 4)))
    return quantized(node, result, node.inputs[7], node.inputs[8], node.dtype(1))


def gemm(node: Node) -> Any:
    """Convert QGemm; its bias has the scale of the products, and its result may be floats."""
    turned = [bool(node.attributes.get(name, 0)) for name in ("transA", "transB")]
    a, b = operand(node, 0), operand(node, 3, axis=0 if turned[1] else 1)
    a, b = (
        node.emit(relax.op.permute_dims(value)) if turn else value
        for value, turn in zip((a, b), turned, strict=True)
    )
    result = node.emit(relax.op.matmul(a, b))
    bias = node.inputs[6]
    if bias is not None:
        scale = node.emit(relax.op.multiply(node.inputs[1], node.inputs[4]))
        wide = node.emit(relax.op.astype(bias, "float32"))
        result = node.emit(relax.op.add(result, node.emit(relax.op.multiply(wide, scale))))
    alpha = float(node.attributes.get("alpha", 1.0))
    if alpha != 1:
        result = node.emit(relax.op.multiply(result, relax.const(alpha, "float32")))
    if node.inputs[7] is None:
        return result
    return quantized(node, result, node.inputs[7], node.inputs[8], node.dtype(0))


def matmul_integer_to_float(node: Node) -> Any:
    """Convert MatMulIntegerToFloat: a product of two quantized matrices and a bias."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (node.inputs[i] for i in range(7))
    x = dequantized(node, a, a_scale, a_zero, axis=-2)
    weight = dequantized(node, b, b_scale, b_zero, axis=-1)
    return _with_bias(node, relax.op.matmul(x, weight), bias)


def dynamic_quantize_matmul(node: Node) -> Any:
    """Convert DynamicQuantizeMatMul: its first operand is quantized by its range."""
    x, weight, scale, zero, bias = (node.inputs[i] for i in range(5))
    parameters = dynamic_range(node, x)
    rounded = dequantized(node, quantized(node, x, *parameters, "uint8"), *parameters)
    weight = dequantized(node, weight, scale, zero, axis=-1)
    return _with_bias(node, relax.op.matmul(rounded, weight), bias)


_SIZES = ("N", "K", "block_size")


def matmul_of_bits(node: Node) -> Any:
    """Convert MatMulNBits: a weight of 2, 4 or 8 bits with a scale for each block of inputs.

    A weight of 4 or 8 bits with integer zeros stays as it is for a float32 input, which kernels of
    few bits round: to 8 bits if the attribute ``accuracy_level`` is 4, as ONNX Runtime does, and
    else to 16. Any other weight becomes the floats that it stands for.
    """
    channels, taps, block = (int(node.attributes.get(name, 0)) for name in _SIZES)
    bits = int(node.attributes.get("bits", 4))
    activations = "int8" if int(node.attributes.get("accuracy_level", 0)) == 4 else "int16"
    node.attributes.get("weight_prepacked", 0)
    if node.inputs[4] is not None:
        raise NotImplementedError("its input 'g_idx' is not supported")
    packed, scales = node.required(1, "B"), node.required(2, "scales")
    zeros = node.constant(3, "zero_points")
    wrong = misfit((channels, taps, bits, block), packed, scales, zeros)
    if wrong:
        raise ValueError(wrong)
    blocks = -(-taps // block)
    values = unpacked(packed.reshape(channels, -1), bits)
    scales = scales.reshape(channels, blocks)
    if zeros is None:
        points = np.full((channels, blocks), 1 << (bits - 1), "uint8")
    elif zeros.dtype == np.uint8:
        points = unpacked(zeros.reshape(channels, -1), bits)[:, :blocks]
    else:
        points = zeros.reshape(channels, blocks)
    are_integers = points.dtype == np.uint8 and scales.dtype == np.float32
    is_finite = bool(np.isfinite(scales).all())
    if bits in BITS and are_integers and is_finite and _is_float32(node.inputs[0]):
        codes = np.ascontiguousarray(values[:, :taps])
        weight = BlockCodes(codes, scales, np.ascontiguousarray(points), bits, block)
        product = operators.block_matmul(node.inputs[0], weight, activations)
        return _with_bias(node, product, node.inputs[5])
    points = points.astype("float32")
    wide = (values.reshape(channels, blocks, block) - points[..., None]) * scales[..., None]
    weight = wide.reshape(channels, -1)[:, :taps].T.astype(scales.dtype)
    product = relax.op.matmul(
        node.inputs[0], relax.const(np.ascontiguousarray(weight), str(scales.dtype))
    )
    return _with_bias(node, product, node.inputs[5])


def gather_block_quantized(node: Node) -> Any:
    """Convert GatherBlockQuantized: rows of a table with a scale for each block."""
    data, scales = node.required(0, "data"), node.required(2, "scales")
    bits, block = int(node.attributes.get("bits", 4)), int(node.attributes.get("block_size", 128))
    zeros = node.constant(3, "zero_points")
    gather_axis = int(node.attributes.get("gather_axis", 0))
    axis = int(node.attributes.get("quantize_axis", 1)) % data.ndim
    if data.dtype == np.uint8:
        if axis != data.ndim - 1:
            raise NotImplementedError("its blocks are supported along the last axis")
        extent = data.shape[-1] * 8 // bits
        data = unpacked(data.reshape(-1, data.shape[-1]), bits).reshape(*data.shape[:-1], extent)
        if zeros is None:
            zeros = np.full(scales.shape, 1 << (bits - 1), "uint8")
        else:
            points = unpacked(zeros.reshape(-1, zeros.shape[-1]), bits)
            zeros = points.reshape(*zeros.shape[:-1], -1)[..., : scales.shape[-1]]
    table = dequantized_array(data, scales, zeros, axis, block)
    constant = relax.const(table, str(table.dtype))
    return node.convert("Gather", [constant, node.inputs[1]], _axis(node, gather_axis))


def _axis(node: Node, axis: int) -> Any:
    attributes = type(node.attributes)(node.attributes)
    attributes["axis"] = axis
    return attributes


def _with_bias(node: Node, product: relax.Expr, bias: Any) -> relax.Expr:
    return product if bias is None else relax.op.add(node.emit(product), bias)


def _is_float32(value: relax.Expr) -> bool:
    """Return whether a value is a tensor of float32 with known axes."""
    tensor = value.ty
    has_axes = isinstance(getattr(tensor, "shape", None), relax.ShapeExpr)
    return has_axes and tensor.dtype == "float32"


def _refuse_channels_last(node: Node) -> None:
    if node.attributes.get("channels_last", 0):
        raise NotImplementedError("its attribute 'channels_last' is not supported")


QUANTIZED: dict[str, Callable[[Node], Any]] = {
    "DynamicQuantizeMatMul": dynamic_quantize_matmul,
    "GatherBlockQuantized": gather_block_quantized,
    "MatMulIntegerToFloat": matmul_integer_to_float,
    "MatMulNBits": matmul_of_bits,
    "QGemm": gemm,
    "QLinearAdd": binary(relax.op.add),
    "QLinearAveragePool": unary(average_pool, to_even=True),
    "QLinearConcat": concat,
    "QLinearGlobalAveragePool": unary(global_average_pool),
    "QLinearLeakyRelu": unary(leaky_relu),
    "QLinearMul": binary(relax.op.multiply),
    "QLinearSigmoid": unary(sigmoid),
    "QLinearSoftmax": unary(softmax),
    "QLinearWhere": where,
}
"""The quantized operators by their names without the domain."""

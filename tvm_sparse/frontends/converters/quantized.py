"""The quantized operators of the ONNX standard become float operators between (de)quantizations.

    f(q_x, s_x, z_x, q_w, s_w, z_w, s_y, z_y)
        => quantize(f(dequantize(q_x, s_x, z_x), dequantize(q_w, s_w, z_w)), s_y, z_y)

Integer products have scales of 1, and their sums are cast to int32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.frontends.converters.node import Node, shape_of
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.run_time_steps import parts_of
from tvm_sparse.passes.ir.shapes import extents_of

_WIDTHS = {"int8": 8, "uint8": 8, "int16": 16, "uint16": 16}
"""The element types that `quantize` has, and their bits."""


def quantize_linear(node: Node) -> Any:
    """Convert QuantizeLinear of one scale, or of one for each entry of an axis."""
    x, scale, zero = node.inputs[0], node.inputs[1], node.inputs[2]
    if node.attributes.get("block_size", 0):
        raise NotImplementedError("its attribute 'block_size' is supported for constants only")
    if node.attributes.get("precision", 0) not in (0, 1):
        raise NotImplementedError("its attribute 'precision' is not supported")
    node.attributes.get("saturate", 1)  # of types of 8 floating-point bits
    wanted = node.attributes.get("output_dtype", 0)
    dtype = str(zero.ty.dtype) if zero is not None else "uint8"
    if wanted and zero is None:
        from onnx.helper import tensor_dtype_to_np_dtype

        dtype = str(tensor_dtype_to_np_dtype(wanted))
    if dtype not in _WIDTHS:
        raise NotImplementedError(f"it makes {dtype}, and only integers of 8 and 16 bits are made")
    return quantized(node, x, scale, zero, dtype, node.attributes.get("axis", 1))


def dequantize_linear(node: Node) -> Any:
    """Convert DequantizeLinear of one scale, or of one for each entry of an axis."""
    x, scale, zero = node.inputs[0], node.inputs[1], node.inputs[2]
    if node.attributes.get("block_size", 0):
        raise NotImplementedError("its attribute 'block_size' is supported for constants only")
    if node.attributes.get("output_dtype", 0):
        raise NotImplementedError("its attribute 'output_dtype' is not supported")
    return dequantized(node, x, scale, zero, node.attributes.get("axis", 1))


def dynamic_quantize_linear(node: Node) -> Any:
    """Convert DynamicQuantizeLinear: the range from min to max, with 0, takes 256 steps."""
    quantities = dynamic_range(node, node.inputs[0])
    return relax.Tuple([quantized(node, node.inputs[0], *quantities, "uint8"), *quantities])


def dynamic_range(node: Node, x: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
    """Return the scale and the zero point in uint8 of all values of `x` and 0.

    As in ONNX Runtime, a tensor of zeros has a scale of 1.
    """
    if extents_of(x) is not None:
        flat = node.emit(relax.op.reshape(x, (1,))) if x.ty.ndim == 0 else x
        return parts_of(node.emit(operators.dynamic_range(flat)), node.emit)
    return _written_out(node, x)


def _written_out(node: Node, x: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
    """Return the same of a tensor whose sizes are not known."""
    emit, zero = node.emit, relax.const(0.0, "float32")
    high = emit(relax.op.maximum(emit(relax.op.max(x)), zero))
    low = emit(relax.op.minimum(emit(relax.op.min(x)), zero))
    extent = emit(relax.op.subtract(high, low))
    step = emit(relax.op.divide(extent, relax.const(255.0, "float32")))
    is_flat = emit(relax.op.equal(extent, zero))
    scale = emit(relax.op.where(is_flat, relax.const(1.0, "float32"), step))
    steps = emit(relax.op.negative(emit(relax.op.divide(low, scale))))
    steps = emit(relax.op.clip(emit(relax.op.round(steps)), 0, 255))
    return scale, emit(relax.op.astype(steps, "uint8"))


def qlinear_matmul(node: Node) -> Any:
    """Convert QLinearMatMul."""
    a, b = operand(node, 0, axis=-2), operand(node, 3, axis=-1)
    product = node.emit(relax.op.matmul(a, b))
    return quantized(node, product, node.inputs[6], node.inputs[7], axis=-2)


def qlinear_conv(node: Node) -> Any:
    """Convert QLinearConv; its bias has the scale of the products."""
    if node.attributes.get("channels_last", 0):
        raise NotImplementedError("its attribute 'channels_last' is not supported")
    x, weight = operand(node, 0), operand(node, 3)
    inputs, bias = [x, weight], node.inputs[8]
    if bias is not None:
        scale = node.emit(relax.op.multiply(_flat(node.inputs[1]), _flat(node.inputs[4])))
        inputs.append(node.emit(relax.op.multiply(relax.op.astype(bias, "float32"), scale)))
    result = node.emit(node.convert("Conv", inputs, node.attributes))
    return quantized(node, result, node.inputs[6], node.inputs[7])


def matmul_integer(node: Node) -> Any:
    """Convert MatMulInteger, whose sums are exact."""
    a = centred(node, node.inputs[0], node.inputs[2], axis=-2)
    b = centred(node, node.inputs[1], node.inputs[3], axis=-1)
    return relax.op.astype(node.emit(relax.op.matmul(a, b)), "int32")


def conv_integer(node: Node) -> Any:
    """Convert ConvInteger, whose sums are exact."""
    x = centred(node, node.inputs[0], node.inputs[2])
    weight = centred(node, node.inputs[1], node.inputs[3], axis=0)
    is_constant = isinstance(node.inputs[1], tvm.ir.GenericConst)
    if not is_constant and math.prod(node.shape(1)[1:]) * 255**2 >= 2**24:
        raise NotImplementedError("its weight is no constant, and its sums may exceed float32")
    return relax.op.astype(node.emit(node.convert("Conv", [x, weight], node.attributes)), "int32")


def operand(node: Node, position: int, axis: int = 0) -> relax.Expr:
    """Return what three inputs from `position` on stand for: values, scale and zero point."""
    values, scale, zero = (node.inputs[position + i] for i in range(3))
    return dequantized(node, values, scale, zero, axis)


def centred(node: Node, values: relax.Expr, zero: Any, axis: int = 0) -> relax.Expr:
    """Return `values` less their zero points, as float32."""
    return dequantized(node, values, relax.const(1.0, "float32"), zero, axis)


def dequantized(
    node: Node, values: relax.Expr, scale: relax.Expr, zero: Any, axis: int = 0
) -> relax.Expr:
    """Return ``(values - zero) * scale`` with the element type of `scale`.

    `scale` and `zero` hold one number, one for each entry of an axis, or numbers for the axes of
    `values`; a zero point of None is 0.
    """
    dtype = str(values.ty.dtype)
    along, parameters = _parameters(node, values, scale, zero, dtype, axis)
    if along is None:
        less = node.emit(relax.op.astype(parameters[1], "float32"))
        exact = node.emit(relax.op.subtract(relax.op.astype(values, "float32"), less))
        return node.emit(relax.op.multiply(exact, parameters[0]))
    of_scale = str(scale.ty.dtype)
    return node.emit(relax.op.dequantize(values, *parameters, axis=along, out_dtype=of_scale))


def quantized(
    node: Node,
    values: relax.Expr,
    scale: relax.Expr,
    zero: Any,
    dtype: str | None = None,
    axis: int = 0,
    *,
    to_even: bool = False,
) -> relax.Expr:
    """Return ``round(values / scale) + zero``, rounded to even and saturated.

    `dtype` is that of `zero` by default. With `to_even`, it is ``round(values / scale + zero)``.
    """
    dtype = dtype or ("uint8" if zero is None else str(zero.ty.dtype))
    along, parameters = _parameters(node, values, scale, zero, dtype, axis)
    if along is None:
        raise NotImplementedError("its scales differ along several axes")
    of_scale, of_zero = parameters
    quantize = operators.quantize_to_even if to_even else relax.op.quantize
    return node.emit(quantize(values, of_scale, of_zero, along, dtype))


def _parameters(
    node: Node, values: relax.Expr, scale: relax.Expr, zero: Any, dtype: str, axis: int
) -> tuple[int | None, list[relax.Expr]]:
    """Return the axis of a scale and a zero point, and both with no axis or with that one.

    The axis is None if they have more.
    """
    if zero is None:
        zero = relax.const(np.zeros((), dtype), dtype)
    rank = values.ty.ndim
    axis = 0 if rank <= 1 else axis % rank
    parameters = []
    for parameter in (scale, zero):
        sizes = shape_of(parameter)
        wide = [position for position, size in enumerate(sizes) if size != 1]
        if not wide:
            parameters.append(_reshaped(node, parameter, ()))
        elif len(sizes) == 1:
            parameters.append(parameter)
        elif len(wide) == 1 and len(sizes) == rank and wide[0] == axis:
            parameters.append(_reshaped(node, parameter, (sizes[axis],)))
        else:
            return None, [scale, zero]
    return axis, parameters


def _reshaped(node: Node, value: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
    if isinstance(value, tvm.ir.GenericConst):
        return relax.const(value.value.numpy().reshape(shape), str(value.ty.dtype))
    same = list(shape) == shape_of(value)
    return value if same else node.emit(relax.op.reshape(value, shape))


def _flat(value: relax.Expr) -> relax.Expr:
    """Return a scale with no axis if it is one number, and with one if it is many."""
    if isinstance(value, tvm.ir.GenericConst):
        array = value.value.numpy()
        return relax.const(array.reshape(()) if array.size == 1 else array.ravel(), "float32")
    return value

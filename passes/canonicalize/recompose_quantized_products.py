"""m * float(int(q W)) => dequantize(q, s_x) dequantize(W, s_w), where m = s_x s_w

q and W are integers less their zero points, and the product is ``matmul`` or a convolution.
Converters of integer products give q and W a scale of 1 and cast the exact sums to int32. Exporters
add an int32 bias, which may depend on the scale of q, cast to float32, and multiply by the scales:
that of q, which `quantize` took or computed, and one or one for each channel of W. Behind this pass
such a layer looks like any other that is quantized. Factors that are neither stay where they are.
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.passes.canonicalize.compute_constants import SAME_ORDER, TRANSPOSE
from tvm_sparse.passes.ir.dataflow import Dataflow, dataflow_blocks
from tvm_sparse.passes.ir.expressions import is_call_to, uniform_value
from tvm_sparse.passes.ir.quantized import DEQUANTIZE, QUANTIZING
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import static_shape

_PRODUCTS = {"relax.matmul": -1, "relax.nn.conv1d": 1, "relax.nn.conv2d": 1}
"""Operators of two quantized operands, and the axis of their output channels."""


@tvm.transform.module_pass(opt_level=0, name="RecomposeQuantizedProducts")
class RecomposeQuantizedProducts:
    """Move the scales of integer products into what they multiply."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with products of dequantized operands, as far as floats are read of them."""
        mod = rewrite_calls(mod, _without_casts)
        return rewrite_calls(mod, _scaled, keep=_scalings_of_what_is_read_twice(mod))


def _without_casts(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """float(int(p)) => p and float(int(p) + bias) => p + float(bias)"""
    if not is_call_to(call, "relax.astype") or call.ty.dtype != "float32":
        return None
    source = lookup(call.args[0])
    if is_call_to(source, "relax.add"):
        for cast, bias in (source.args, source.args[::-1]):
            product = _cast_product(lookup(cast), lookup)
            if product is not None and static_shape(product) == static_shape(call):
                found = lookup(bias)
                if isinstance(found, tvm.ir.GenericConst):
                    wide = relax.const(found.value.numpy().astype("float32"), "float32")
                else:
                    wide = emit(relax.op.astype(bias, "float32"))
                return relax.op.add(product, wide)
    return _cast_product(source, lookup)


def _cast_product(value: relax.Expr, lookup: Lookup) -> relax.Expr | None:
    """Return the exact product that `value` casts to int32, or None."""
    if not is_call_to(value, "relax.astype") or value.ty.dtype != "int32":
        return None
    return value.args[0] if _is_exact(lookup(value.args[0]), lookup) else None


def _is_exact(value: relax.Expr, lookup: Lookup) -> bool:
    """Whether `value` is a product of integers less their zero points."""
    return is_call_to(value, *_PRODUCTS) and all(_is_centred(lookup(arg)) for arg in value.args)


def _is_centred(value: relax.Expr) -> bool:
    return is_call_to(value, DEQUANTIZE) and uniform_value(value.args[1]) == 1


def _scaled(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, "relax.multiply"):
        return None
    for value, factor in (call.args, call.args[::-1]):
        product, bias = _with_bias(value, lookup)
        if product is None or static_shape(value) != static_shape(call):
            continue
        result = _with_scales(product, factor, lookup, emit)
        if result is None or bias is None:
            return result
        known = [lookup(number) for number in (bias, factor)]
        if all(isinstance(number, tvm.ir.GenericConst) for number in known):
            shift = relax.const(np.multiply(*(n.value.numpy() for n in known)), "float32")
        else:
            shift = emit(relax.op.multiply(bias, factor))
        return relax.op.add(emit(result), shift)
    return None


def _with_bias(value: relax.Expr, lookup: Lookup) -> tuple[relax.Expr | None, relax.Expr | None]:
    """Return the integer product in ``product + bias``, and the bias, None without one."""
    call = lookup(value)
    if is_call_to(call, "relax.add"):
        if static_shape(call.args[0]) == static_shape(value) and _is_exact(
            lookup(call.args[0]), lookup
        ):
            return call.args[0], call.args[1]
        return None, None
    return (value, None) if _is_exact(call, lookup) else (None, None)


def _with_scales(
    value: relax.Expr, factor: relax.Expr, lookup: Lookup, emit: Emit
) -> relax.Expr | None:
    """Return the product `value` of operands that share the scales in `factor`."""
    product = lookup(value)
    operands = [lookup(arg) for arg in product.args]
    constant, others = _factors(factor, lookup)
    scales: list[relax.Expr | None] = [None, None]
    for position, operand in enumerate(operands):
        scale = _scale_of(operand.args[0], lookup)
        found = [i for i, other in enumerate(others) if other.same_as(scale)]
        if found:
            scales[position] = others.pop(found[0])
        elif isinstance(scale, tvm.ir.GenericConst) and scale.value.numpy() > 0:
            scales[position] = scale
            constant = constant / np.float64(scale.value.numpy())
    channels = _of_channels(constant.astype("float32"), product)
    if channels is None:
        return None
    if scales[1] is None:
        scales[1] = relax.const(channels)
    elif uniform_value(relax.const(channels)) != 1:
        others.append(relax.const(constant.astype("float32")))
    dequantized = []
    for operand, scale in zip(operands, scales, strict=True):
        scale = relax.const(1.0, "float32") if scale is None else scale
        rank, axis = operand.args[0].ty.ndim, int(operand.attrs.axis)
        if static_shape(scale):
            axis = rank - 1 if is_call_to(product, "relax.matmul") else 0
        scaled = relax.op.dequantize(operand.args[0], scale, operand.args[2], axis=axis)
        dequantized.append(emit(scaled))
    result: relax.Expr = relax.Call(product.op, dequantized, product.attrs)
    for other in others:
        name = value.name if isinstance(value, relax.Var) else ""
        result = relax.op.multiply(emit(result, name), other)
    return result


def _scale_of(value: relax.Expr, lookup: Lookup) -> relax.Expr | None:
    """Return the only scale by which `value` was quantized, or None."""
    call = lookup(value)
    while is_call_to(call, TRANSPOSE, *SAME_ORDER):
        call = lookup(call.args[0])
    if not is_call_to(call, *QUANTIZING) or static_shape(call.args[1]) != ():
        return None
    return call.args[1]


def _factors(value: relax.Expr, lookup: Lookup) -> tuple[NDArray[np.float64], list[relax.Expr]]:
    """Return the constant part of a product, and its other factors."""
    found = lookup(value)
    if isinstance(found, tvm.ir.GenericConst):
        return found.value.numpy().astype("float64"), []
    if is_call_to(found, "relax.multiply"):
        (a, of_a), (b, of_b) = (_factors(arg, lookup) for arg in found.args)
        if a.size == 1 or b.size == 1 or a.shape == b.shape:
            return a * b, [*of_a, *of_b]
    return np.ones(()), [value]


def _of_channels(scale: NDArray[np.float32], product: relax.Call) -> NDArray[np.float32] | None:
    """Return a scale with no axis or that of the output channels, or None if it has others."""
    if scale.size == 1:
        return scale.reshape(())
    shape = static_shape(product)
    if shape is None or scale.ndim > len(shape):
        return None
    axis = _PRODUCTS[product.op.name] % len(shape)
    wide = (1,) * (len(shape) - scale.ndim) + scale.shape
    if math.prod(wide) != wide[axis]:
        return None
    return scale.ravel()


def _scalings_of_what_is_read_twice(mod: tvm.IRModule) -> list[relax.Call]:
    """Return multiplications of products that something else reads, too."""
    kept = []
    for block in dataflow_blocks(mod):
        for value in block.bound.values():
            if is_call_to(value, "relax.multiply") and any(
                _is_read_twice(arg, block) for arg in value.args
            ):
                kept.append(value)
    return kept


def _is_read_twice(value: relax.Expr, block: Dataflow) -> bool:
    found = block.lookup(value)
    if is_call_to(found, "relax.add"):
        return _read(value, block) > 1 or _is_read_twice(found.args[0], block)
    return is_call_to(found, *_PRODUCTS) and _read(value, block) > 1


def _read(value: relax.Expr, block: Dataflow) -> int:
    return len(block.readers.get(value, ()))

"""int(x w) => int(x low) + 16 int(x high), where w = low + 16 high

Products of integers less their zero points are computed in float32, which is exact for sums below
2**24. Where a sum may be larger, the weight is split into digits, or, if it is no constant, the
product into parts of the summed axis. The parts are added as int32, as the standard says.

Runs behind `RecomposeQuantizedProducts`: a product that is read as floats need not be exact.
"""

from __future__ import annotations

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.formats.quantization import along
from tvm_sparse.passes.ir.expressions import is_call_to, uniform_value
from tvm_sparse.passes.ir.quantized import DEQUANTIZE, is_quantized_constant
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import known_shape, static_shape

LARGEST = 2**24
"""Up to here, float32 holds every integer."""

_STEPS = 255
"""The most steps between an integer of 8 bits and its zero point."""

_PRODUCTS = ("relax.matmul", "relax.nn.conv1d", "relax.nn.conv2d")


@tvm.transform.module_pass(opt_level=0, name="SplitExactProducts")
class SplitExactProducts:
    """Split products that are read as integers until float32 holds their sums."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with products whose sums are exact."""
        return rewrite_calls(mod, _split)


def _split(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, "relax.astype") or call.ty.dtype != "int32":
        return None
    product = lookup(call.args[0])
    if not is_call_to(product, *_PRODUCTS):
        return None
    x, weight = (lookup(arg) for arg in product.args)
    if not (_is_centred(x) and _is_centred(weight)):
        return None
    if is_quantized_constant(weight):
        return _by_digits(product, weight, emit)
    return _by_taps(product, emit) if is_call_to(product, "relax.matmul") else None


def _is_centred(value: relax.Expr) -> bool:
    return is_call_to(value, DEQUANTIZE) and uniform_value(value.args[1]) == 1


def _by_digits(product: relax.Call, weight: relax.Call, emit: Emit) -> relax.Expr | None:
    values, _, zero = (arg.value.numpy() for arg in weight.args)
    rest = values.astype("int32") - along(zero.astype("int32"), int(weight.attrs.axis), values.ndim)
    # All axes but that of the output channels are summed.
    axes = values.ndim - 2 if is_call_to(product, "relax.matmul") else tuple(range(1, values.ndim))
    for bits in (8, 4, 2, 1):
        digits = _digits(rest, bits)
        if all(_STEPS * np.abs(d).sum(axes, initial=0).max(initial=0) < LARGEST for d in digits):
            break
    if bits == 8:
        return None
    total = None
    for position, digit in enumerate(digits):
        operands = [product.args[0], relax.const(digit.astype("float32"))]
        part = emit(relax.op.astype(emit(relax.Call(product.op, operands, product.attrs)), "int32"))
        if position:
            factor = relax.const(np.int32(1 << bits * position), "int32")
            part = emit(relax.op.multiply(part, factor))
        total = part if total is None else emit(relax.op.add(total, part))
    return total


def _digits(values: NDArray[np.int32], bits: int) -> list[NDArray[np.int32]]:
    """Return numbers whose sum, each times ``2**bits`` to the power of its place, is `values`."""
    if bits == 8:
        return [values]
    found = []
    for _ in range(8 // bits):
        low = values & ((1 << bits) - 1)
        found.append(low)
        values = (values - low) >> bits
    return [*found, values] if values.any() else found


def _by_taps(product: relax.Call, emit: Emit) -> relax.Expr | None:
    x, weight = product.args
    taps, most = (static_shape(x) or (0,))[-1], (LARGEST - 1) // _STEPS**2
    if taps <= most:
        return None
    axes = [len(known_shape(x)) - 1, max(len(known_shape(weight)) - 2, 0)]
    total = None
    for start in range(0, taps, most):
        end = min(start + most, taps)
        operands = [
            emit(relax.op.strided_slice(value, [axis], [start], [end]))
            for value, axis in zip(product.args, axes, strict=True)
        ]
        part = emit(relax.op.astype(emit(relax.Call(product.op, operands, product.attrs)), "int32"))
        total = part if total is None else emit(relax.op.add(total, part))
    return total

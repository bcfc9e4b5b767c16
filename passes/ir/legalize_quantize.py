"""quantize(x, scale, zero point) => loops without a division for each element

A division takes as long as a dozen other operations on vectors. The quotient follows from a product
with the inverse and what that leaves of the dividend: the steps of Markstein, by which processors
without a division compute correctly rounded quotients. So the integers are those of a division.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx

from tvm_sparse.dtypes import ACTIVATIONS

LEAST = 2.0**-100
"""Smaller scales, of which the inverse may be infinite, are multiplied by `FACTOR` before."""
FACTOR = 2.0**64
WITHOUT_FRACTIONS = 1.5 * 2.0**23
"""A sum with this number is rounded to the even one of two integers, which its last bits are: one
instruction in place of a rounding, which takes two, and a conversion."""


def legalize_quantize(
    builder: relax.BlockBuilder, call: relax.Call, *, to_even: bool = False
) -> relax.Expr:
    """Return the call of a function that rounds float32 to integers of at most 16 bits.

    Of two equally near integers it takes the even one if `to_even`, and else the one whose distance
    from the zero point is even.
    """
    x, scale, zero = call.args
    dtype = str(call.attrs["out_dtype"])
    types = {str(value.ty.dtype) for value in (x, scale)}
    if types != {ACTIVATIONS} or dtype not in ("int8", "uint8", "int16", "uint16"):
        legalize: relax.Expr = tvm.ir.Op.get("relax.quantize").get_attr("FLegalize")(builder, call)
        return legalize
    axis = int(call.attrs["axis"]) % max(x.ty.ndim, 1)

    is_known = isinstance(scale, tvm.ir.GenericConst)
    may_be_small = not (is_known and scale.value.numpy().min(initial=1) >= LEAST)

    def quantized(x: te.Tensor, scale: te.Tensor, zero: te.Tensor) -> te.Tensor:
        def value(*place: Any) -> Any:
            step, shift = (_at(numbers, place[axis : axis + 1]) for numbers in (scale, zero))
            factor = tirx.Select(step < LEAST, _number(FACTOR), _number(1))
            if not may_be_small:
                return integer(x(*place), step, shift, dtype, to_even=to_even)
            return integer(x(*place) * factor, step * factor, shift, dtype, to_even=to_even)

        return te.compute(x.shape, value, name="quantized")

    return builder.call_te(quantized, x, scale, zero, primfunc_name_hint="quantize")


def integer(x: Any, scale: Any, zero: Any, dtype: str, *, to_even: bool) -> Any:
    """Return the integer that is the nearest to `x`, for a positive scale."""
    shift = tirx.Cast(ACTIVATIONS, zero)
    low, high = (_number(float(end)) - shift for end in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    inverse = _number(1) / scale
    # Selections are single instructions; minima that hand NaN on are not.
    above = tirx.Select(x < low * scale, low * scale, x)
    inside = tirx.Select(above > high * scale, high * scale, above)
    nearly = inside * inverse
    left = _multiply_add(nearly, _number(0) - scale, inside)
    exact = _multiply_add(left, inverse, nearly)
    if to_even:
        steps = exact + (_number(WITHOUT_FRACTIONS) + shift)
        return tirx.Cast(dtype, tirx.reinterpret("int32", steps))
    steps = exact + _number(WITHOUT_FRACTIONS)
    return tirx.Cast(dtype, tirx.reinterpret("int32", steps) + tirx.Cast("int32", zero))


def _at(numbers: te.Tensor, place: tuple[Any, ...]) -> Any:
    """Return the number of a place of the axis, or the only one."""
    alone = all(int(extent) == 1 for extent in numbers.shape)
    return numbers(*([0] * len(numbers.shape) if alone else place))


def _multiply_add(a: Any, b: Any, c: Any) -> Any:
    return tirx.call_intrin(ACTIVATIONS, "tirx.fma", a, b, c)


def _number(value: float) -> Any:
    return tirx.const(value, ACTIVATIONS)

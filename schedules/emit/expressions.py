"""The parts of elementary functions: names, constants, polynomials and bits.

All functions take and return float32 or float16 values, integers of as many bits, or vectors of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx import Broadcast, FloatImm, Let, Max, Min, Var
from tvm.tirx.script import builder as T

if TYPE_CHECKING:
    from tvm.ir import Expr


class Lets:
    """Names intermediate values that are used more than once, so that each is computed once.

    Names inside a value are bound in front of the value, because the time that TVM's passes take
    doubles with each `Let` inside the value of another `Let`.
    """

    def __init__(self) -> None:
        self._bound: list[tuple[Var, Expr]] = []

    def __call__(self, value: Expr) -> Var:
        """Return a name for `value`."""
        while isinstance(value, Let):
            self._bound.append((value.var, value.value))
            value = value.body
        var = Var("t", value.ty)
        self._bound.append((var, value))
        return var

    def around(self, body: Expr) -> Expr:
        """Return `body` with all names bound in front of it."""
        for var, value in reversed(self._bound):
            body = Let(var, value, body)
        return body


def bound(value: Expr) -> Var:
    """Bind a value to a name in the function that is being built, and names inside of it before.

    TVM replaces names by their values. A value with a `Let` in several places would bind the name
    of that `Let` several times, which TVM's analysis refuses.
    """
    while isinstance(value, Let):
        T.bind(value.value, var=value.var)
        value = value.body
    return T.bind(value)


def constant(value: float, like: Expr) -> Expr:
    """Return a floating-point constant with the bits and lanes of another expression."""
    return _broadcast(tirx.const(float(value), f"float{like.ty.dtype.bits}"), like)


def int_constant(value: int, like: Expr) -> Expr:
    """Return an integer constant with the bits and lanes of another expression."""
    return _broadcast(tirx.const(value, f"int{like.ty.dtype.bits}"), like)


def _broadcast(scalar: Expr, like: Expr) -> Expr:
    lanes = like.ty.dtype.lanes
    return scalar if lanes == 1 else T.Broadcast(scalar, lanes)


def polynomial(coefficients: Sequence[float], x: Expr) -> Expr:
    """Return a polynomial of `x` by Horner's scheme; the lowest power's coefficient is first."""
    value = constant(coefficients[-1], x)
    for c in reversed(coefficients[:-1]):
        value = value * x + constant(c, x)
    return value


def multiply_add(a: Expr, b: Expr, c: Expr) -> Expr:
    """Return ``a * b + c``; for vectors, a call that has side effects as far as TVM knows.

    Where a name is bound to arithmetic alone, TVM's simplifier replaces it by its value, names
    within names, and takes seconds for some elementary functions.
    """
    if a.ty.dtype.lanes == 1:
        return a * b + c
    return T.call_llvm_intrin(a.ty.dtype, "llvm.fmuladd", a, b, c)


def clip(x: Expr, low: float, high: float) -> Expr:
    """Return `x` limited to `low` to `high`; NaN stays NaN."""
    # Of selections, TVM's simplifier looks into the conditions, with all that names in them stand
    # for, and takes seconds for a kernel.
    return minimum(maximum(x, constant(low, x)), constant(high, x))


def maximum(a: Expr, b: Expr) -> Expr:
    """Return the larger of two values; NaN if one of them is NaN.

    TVM's maximum of a and b is b where one of them is NaN. So it keeps NaN, at no cost, where a is
    a number.
    """
    return _keeping_nan("llvm.maximum", T.max, a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    """Return the smaller of two values; NaN if one of them is NaN."""
    return _keeping_nan("llvm.minimum", T.min, a, b)


def _keeping_nan(intrinsic: str, plain: Callable[[Expr, Expr], Expr], a: Expr, b: Expr) -> Expr:
    if not is_float(a):
        return plain(a, b)
    for number, value in ((a, b), (b, a)):
        scalar = number.value if isinstance(number, Broadcast) else number
        if isinstance(scalar, FloatImm):
            kind = Max if plain is T.max else Min
            return kind(number, value)
    return T.call_llvm_pure_intrin(a.ty.dtype, intrinsic, a, b)


def is_float(value: Expr) -> bool:
    """Whether a value or vector is a floating-point number."""
    return "float" in str(value.ty.dtype)


def bits_of(x: Expr) -> Expr:
    """Return the bits of a floating-point value as an integer."""
    return T.reinterpret(with_lanes(f"int{x.ty.dtype.bits}", x), x)


def float_of(bits: Expr) -> Expr:
    """Return the floating-point value with these bits."""
    return T.reinterpret(with_lanes(f"float{bits.ty.dtype.bits}", bits), bits)


def shift_left(x: Expr, count: int) -> Expr:
    """Return bits shifted to the left by `count` places."""
    return T.shift_left(x, int_constant(count, x))


def with_lanes(scalar: str, like: Expr) -> str:
    """Return the type of a scalar type's vectors with the lanes of another expression."""
    lanes = like.ty.dtype.lanes
    return scalar if lanes == 1 else f"{scalar}x{lanes}"

"""Elementary functions in float32, as expressions that LLVM turns into vector code.

TVM lowers ``exp`` and ``tanh`` to one call of libm per element and cannot lower ``erf`` for LLVM
targets at all. The functions here take a scalar or vector expression and use only arithmetic,
comparisons and bit operations of its type.

Largest errors over all float32 inputs (an ulp is 2**-23 of the result's power of two):

=========================================  ====================================================
`exp`                                      1.5 ulp; 0 below 2**-126, inf above 2**128
`log`, `log1p`                             1.5 ulp
`softplus`                                 3 ulp; 0 below 2**-126
`tanh`, `erf`                              4 ulp
`sigmoid`                                  3 ulp; 0 below 2**-126
`gelu`, `gelu_tanh`, `silu`, `hardswish`   2e-7 * max(1, abs(x))
=========================================  ====================================================

NaN gives NaN everywhere. The coefficients are minimax fits of the formula given beside them, by
Lawson's iteration in double precision (J. R. Rice, The Approximation of Functions, vol. 2, 1969).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tvm.tirx import Select
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.expressions import (
    Lets,
    bits_of,
    clip,
    constant,
    float_of,
    int_constant,
    maximum,
    multiply_add,
    polynomial,
    shift_left,
)

if TYPE_CHECKING:
    from tvm.ir import Expr

MIN_NORMAL = 2.0**-126
MANTISSA_BITS = 23

EXP_LOWEST = -87.33654
"""The smallest float32 whose exp is not subnormal."""
EXP_HIGHEST = 88.72283
"""The largest float32 whose exp is finite."""
# (exp(r) - 1 - r) / r**2 on abs(r) <= log(2) / 2; error 3e-9 of exp(r).
_EXP = (0.4999999404, 0.1666652113, 0.0416683890, 0.0083687166, 0.0013814599)

SIGN_BIT = -(2**31)
# 1 / x on 1 <= x <= 2; relative error 1 / 99, which is T(2 * x - 3) / 99 with Chebyshev's
# polynomial of degree 3.
_RECIPROCAL = (210 / 99, -144 / 99, 32 / 99)

GATE_REACH = 80.0
"""Beyond this value `_gate` is constant; its exp and the reciprocal are normal float32 numbers."""
# 2**r on abs(r) <= 1 / 2; relative error 8e-8.
_EXP2 = (1.00000007, 0.69314697, 0.24022120, 0.05550713, 0.00967554, 0.00132765)
# Subtracting the bits of x from these gives y = 0.7071 to 0.7286 of 1 / x, because the exponent is
# negated and both mantissas are taken as logarithms; y * (2.786 - 1.941 * x * y) is within 1.1e-4.
_RECIPROCAL_BITS = 0x7EB50500
_RECIPROCAL_LINE = (2.7864823, 1.9409043)

ERF_SATURATES = 3.92
"""From here on erf is 1 within half an ulp."""
# erf(x) / x in u = 2 * (x / 3.92)**2 - 1 on abs(u) <= 1; relative error 3e-8. In powers of x**2
# itself all digits would cancel.
_ERF = (
    *(0.36073681712, -0.18010862172, 0.13408455253, -0.10917922854, 0.09059697390),
    *(-0.07401981205, 0.05839599669, -0.04343687370, 0.02969756722, -0.01999499649),
    *(0.01420995034, -0.00766056823, 0.00191997213, -0.00139451318, 0.00209875824),
    -0.00084393425,
)

TANH_SMALL = 0.625
# (tanh(x) / x - 1) / x**2 in powers of x**2 on abs(x) <= 0.625; error 4e-9 of tanh(x) / x.
_TANH = (-0.3333328366, 0.1333149076, -0.0537434965, 0.0206505861, -0.0057170442)

# (log(1 + r) - r + r**2 / 2) / r**3 on sqrt(0.5) <= 1 + r <= sqrt(2); error 6e-9 of log(1 + r).
_LOG = (
    *(0.3333333135, -0.2500081956, 0.2000122666, -0.1662335694),
    *(0.1420175731, -0.1316018254, 0.1276157796, -0.0763449445),
)

# log(2) as a sum: the first part has 15 bits, so that its product with an exponent is exact.
_LOG2_HIGH, _LOG2_LOW = 0.693145751953125, 1.42860682030941723e-6
# Added to a float32, rounds it to an integer and leaves that integer in the low bits.
_ROUND = 1.5 * 2**MANTISSA_BITS


def exp(x: Expr) -> Expr:
    """Return e to the power of `x`."""
    let = Lets()
    x = let(x)
    finite = let(_finite_exp(x))
    return let.around(Select(x > constant(EXP_HIGHEST, x), constant(math.inf, x), finite))


def _finite_exp(x: Expr) -> Expr:
    """Return e to the power of `x` where that is finite."""
    let = Lets()
    x = let(x)
    rounded = let(multiply_add(x, constant(math.log2(math.e), x), constant(_ROUND, x)))
    n = let(rounded - constant(_ROUND, x))
    r = multiply_add(n, constant(-_LOG2_HIGH, x), x)
    r = let(multiply_add(n, constant(-_LOG2_LOW, x), r))
    mantissa = r * r * polynomial(_EXP, r) + r + constant(1, x)
    power = float_of(bits_of(mantissa) + shift_left(bits_of(rounded), MANTISSA_BITS))
    return let.around(Select(x < constant(EXP_LOWEST, x), constant(0, x), power))


def log(x: Expr) -> Expr:
    """Return the natural logarithm of `x`: -inf at 0, NaN below."""
    let = Lets()
    x = let(x)
    tiny = x < constant(MIN_NORMAL, x)
    scaled = let(bits_of(Select(tiny, x * constant(2.0**MANTISSA_BITS, x), x)))
    sqrt_half = int_constant(0x3F3504F3, x)
    exponent = let(T.shift_right(scaled - sqrt_half, int_constant(MANTISSA_BITS, x)))
    r = let(float_of(scaled - shift_left(exponent, MANTISSA_BITS)) - constant(1, x))
    unscaled = exponent - Select(tiny, int_constant(MANTISSA_BITS, x), int_constant(0, x))
    n = let(T.Cast(x.ty.dtype, unscaled))
    positive = Select(x < constant(math.inf, x), _scaled_log1p(r, n), x)
    nonzero = Select(x < constant(0, x), constant(math.nan, x), positive)
    return let.around(Select(T.EQ(x, constant(0, x)), constant(-math.inf, x), nonzero))


def log1p(x: Expr) -> Expr:
    """Return the natural logarithm of ``1 + x``: -inf at -1, NaN below."""
    let = Lets()
    x = let(x)
    huge = x > constant(2.0**64, x)
    part = let(Select(huge, x * constant(2.0**-32, x), x))
    bits = bits_of(constant(1, x) + part)
    exponent = let(
        T.shift_right(bits - int_constant(0x3F3504F3, x), int_constant(MANTISSA_BITS, x))
    )
    # The sum of 1 and x, which drops digits of x, gives the exponent only.
    scale = let(float_of(shift_left(int_constant(127, x) - exponent, MANTISSA_BITS)))
    r = let(multiply_add(part, scale, scale - constant(1, x)))
    added = Select(huge, int_constant(32, x), int_constant(0, x))
    n = let(T.Cast(x.ty.dtype, exponent + added))
    above = Select(x < constant(math.inf, x), _scaled_log1p(r, n), x)
    other = Select(x < constant(-1, x), constant(math.nan, x), above)
    return let.around(Select(T.EQ(x, constant(-1, x)), constant(-math.inf, x), other))


def softplus(x: Expr) -> Expr:
    """Return ``log(1 + exp(x))``, which is ``max(x, 0) + log(1 + exp(-abs(x)))``."""
    let = Lets()
    x = let(x)
    e = let(_finite_exp(float_of(bits_of(x) | int_constant(SIGN_BIT, x))))
    is_large = e > constant(math.sqrt(2) - 1, x)
    r = let(Select(is_large, e * constant(0.5, x) - constant(0.5, x), e))
    n = let(Select(is_large, constant(1, x), constant(0, x)))
    return let.around(relu(x) + _scaled_log1p(r, n))


def _scaled_log1p(r: Expr, n: Expr) -> Expr:
    """Return the logarithm of ``2**n * (1 + r)``."""
    small = r * r * (r * polynomial(_LOG, r) - constant(0.5, r)) + n * constant(_LOG2_LOW, r)
    return n * constant(_LOG2_HIGH, r) + (r + small)


def sigmoid(x: Expr) -> Expr:
    """Return ``1 / (1 + exp(-x))``, for negative `x` as ``exp(x) / (1 + exp(x))``."""
    let = Lets()
    x = let(x)
    e = let(_finite_exp(float_of(bits_of(x) | int_constant(SIGN_BIT, x))))
    share = let(_reciprocal(constant(1, x) + e))
    return let.around(share * Select(x < constant(0, x), e, constant(1, x)))


def _reciprocal(x: Expr) -> Expr:
    """Return ``1 / x`` for 1 <= x <= 2 within an ulp, and exactly at both ends.

    It takes six operations of half a cycle each; a division of 16 values takes 16 cycles on x86.
    """
    let = Lets()
    x = let(x)
    y = let(polynomial(_RECIPROCAL, x))
    for _ in range(2):  # Newton's method squares the error
        error = let(multiply_add(constant(0, x) - x, y, constant(1, x)))
        y = let(multiply_add(y, error, y))
    return let.around(y)


def _gate(x: Expr) -> Expr:
    """Return ``1 / (1 + exp(-x))`` with an absolute error of 1e-7.

    It takes fewer operations than `sigmoid`, and is exact enough where it is multiplied by `x`.
    """
    let = Lets()
    x = let(clip(x, -GATE_REACH, GATE_REACH))
    scale = constant(-math.log2(math.e), x)
    rounded = let(multiply_add(x, scale, constant(_ROUND, x)))
    r = let(multiply_add(x, scale, constant(_ROUND, x) - rounded))
    power = bits_of(polynomial(_EXP2, r)) + shift_left(bits_of(rounded), MANTISSA_BITS)
    # The reciprocal of -below, which is wanted, has the bits of `below` but for the sign.
    below = let(constant(-1, x) - float_of(power))
    y = let(float_of(int_constant(_RECIPROCAL_BITS + SIGN_BIT, x) - bits_of(below)))
    offset, slope = _RECIPROCAL_LINE
    line = multiply_add(y * constant(slope, x), below, constant(offset, x))
    y = let(y * line)
    error = let(multiply_add(below, y, constant(1, x)))
    return let.around(multiply_add(y, error, y))


def tanh(x: Expr) -> Expr:
    """Return the hyperbolic tangent of `x`."""
    let = Lets()
    x = let(x)
    square = let(x * x)
    small = x * square * polynomial(_TANH, square) + x
    large = constant(1, x) - constant(2, x) / (let(exp(x + x)) + constant(1, x))
    return let.around(Select(square < constant(TANH_SMALL**2, x), small, large))


def erf(x: Expr) -> Expr:
    """Return the Gauss error function of `x`."""
    let = Lets()
    x = let(x)
    u = let(x * x * constant(2 / ERF_SATURATES**2, x) - constant(1, x))
    below = Select(x < constant(-ERF_SATURATES, x), constant(-1, x), x * polynomial(_ERF, u))
    return let.around(Select(x > constant(ERF_SATURATES, x), constant(1, x), below))


def gelu(x: Expr) -> Expr:
    """Return ``x * (1 + erf(x / sqrt(2))) / 2``."""
    let = Lets()
    x = let(x)
    half = let(x * constant(0.5, x))
    return let.around(half * let(erf(x * constant(math.sqrt(0.5), x))) + half)


def gelu_tanh(x: Expr) -> Expr:
    """Return the approximation ``x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2``."""
    let = Lets()
    x = let(x)
    scale = 2 * math.sqrt(2 / math.pi)
    inner = x * (x * x * constant(0.044715 * scale, x) + constant(scale, x))
    return let.around(x * let(_gate(inner)))


def silu(x: Expr) -> Expr:
    """Return ``x * sigmoid(x)``."""
    let = Lets()
    x = let(x)
    return let.around(x * let(_gate(x)))


def relu(x: Expr) -> Expr:
    """Return the larger of `x` and 0."""
    return maximum(x, constant(0, x))


def relu6(x: Expr) -> Expr:
    """Return `x` limited to 0 to 6."""
    return clip(x, 0, 6)


def leaky_relu(x: Expr, slope: float) -> Expr:
    """Return `x`, scaled by `slope` where it is negative."""
    let = Lets()
    x = let(x)
    return let.around(Select(x < constant(0, x), x * constant(slope, x), x))


def hardswish(x: Expr) -> Expr:
    """Return ``x * clip(x / 6 + 1 / 2, 0, 1)``."""
    let = Lets()
    x = let(x)
    return let.around(x * let(clip(x * constant(1 / 6, x) + constant(0.5, x), 0, 1)))

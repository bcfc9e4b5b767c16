"""Elementary functions in float16, as expressions that LLVM turns into vector code.

They use float16 arithmetic, whose vectors hold twice as many values as those of float32. `wide`
makes a float16 function of a float32 one, which is exact but takes twice as long as in float32.

Largest errors over all float16 inputs, where the processor has float16 arithmetic (an ulp is 2**-10
of the result's power of two, and at least 2**-24):

==============================  ==================================
`exp`, `exp_of_negative`        1 ulp; 0 below 2**-25
`tanh`                          2 ulp
`sigmoid`                       3 ulp
`gelu`, `gelu_tanh`, `silu`     9.2e-4 * max(1, abs(x))
`hardswish`                     8e-4 * max(1, abs(x))
==============================  ==================================

NaN gives NaN everywhere. The polynomials are minimax fits of the formulas given beside them, whose
coefficients were then moved by single ulps while the largest error over all inputs became less.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
    with_lanes,
)

if TYPE_CHECKING:
    from tvm.ir import Expr

MANTISSA_BITS = 10
SIGN_BIT = -(2**15)

EXP_LOWEST = -17.34375
"""Below this number, exp is less than half of the smallest float16."""
EXP_HIGHEST = 11.0859375
"""The largest float16 whose exp is finite."""
# exp(r) on abs(r) <= log(2) / 2.
_EXP = (1.0, 1.0, 0.50390625, 0.16650390625)
# log(2) as a sum. A product of the first part and an exponent is a multiple of 2**-11, and so is
# every float16 from 1 / 2 on, so that the first step of the range reduction is exact.
_LOG2_HIGH, _LOG2_LOW = 0.693359375, -0.00021219253540039062
# Added to a float16, rounds it to an integer and leaves that integer in the low bits.
_ROUND = 1.5 * 2**MANTISSA_BITS
RAISED = 11
"""Powers below 1 are computed times 2**11, so that those down to 2**-25 are normal numbers."""

# 1 / x on 1 <= x <= 2; relative error 1 / 99, which is T(2 * x - 3) / 99 with Chebyshev's
# polynomial of degree 3.
_RECIPROCAL = (210 / 99, -144 / 99, 32 / 99)

GELU_REACH, SILU_REACH = 4.0, 8.0
"""From here on the functions are x or 0. The polynomials are exactly ``1 / (2 * reach)`` here."""
# (gelu(x) / x - 1 / 2) / x in t = 2 * (x / 4)**2 - 1 on abs(t) <= 1.
_GELU = (
    *(0.1759033203125, -0.08447265625, 0.0555419921875, -0.034820556640625),
    *(0.02337646484375, -0.017333984375, 0.006866455078125),
)
# (gelu_tanh(x) / x - 1 / 2) / x likewise.
_GELU_TANH = (
    *(0.176025390625, -0.08465576171875, 0.0552978515625, -0.03424072265625),
    *(0.02301025390625, -0.01776123046875, 0.0073089599609375),
)
# (silu(x) / x - 1 / 2) / x in t = 2 * (x / 8)**2 - 1.
_SILU = (
    *(0.0877685546875, -0.042083740234375, 0.027984619140625, -0.0218658447265625),
    *(0.0266876220703125, -0.01557159423828125, -0.0186309814453125, 0.00670623779296875),
    *(0.032012939453125, -0.0205078125),
)

TANH_SMALL = 0.625
# (tanh(x) / x - 1) / x**2 in powers of x**2 on abs(x) <= 0.625.
_TANH = (-0.3330078125, 0.1297607421875, -0.0413818359375)


def wide(function: Callable[..., Expr]) -> Callable[..., Expr]:
    """Return a function of float16 values that is computed in float32.

    Parameters of the function that are numbers stay as they are.
    """

    def of_halves(*operands: Expr | float) -> Expr:
        let = Lets()
        halves = [operand for operand in operands if not isinstance(operand, float)]
        widened = [let(T.Cast(with_lanes("float32", half), half)) for half in halves]
        result = function(*widened, *operands[len(halves) :])
        return let.around(T.Cast(with_lanes("float16", result), let(result)))

    return of_halves


def exp(x: Expr) -> Expr:
    """Return e to the power of `x`."""
    let = Lets()
    x = let(x)
    is_negative = x < constant(0, x)
    limited = let(clip(x, EXP_LOWEST, EXP_HIGHEST))
    raised = Select(is_negative, int_constant(RAISED << MANTISSA_BITS, x), int_constant(0, x))
    power = float_of(_power_bits(let, limited, _ROUND) + raised)
    scale = Select(is_negative, constant(2.0**-RAISED, x), constant(1, x))
    finite = let(power * scale)
    return let.around(Select(x > constant(EXP_HIGHEST, x), constant(math.inf, x), finite))


def exp_of_negative(x: Expr) -> Expr:
    """Return e to the power of `x`, which is not above 0."""
    let = Lets()
    return let.around(let(raised_exp_of_negative(x)) * constant(2.0**-RAISED, x))


def raised_exp_of_negative(x: Expr) -> Expr:
    """Return 2**`RAISED` times e to the power of `x`, which is not above 0; at least 2**-15."""
    let = Lets()
    limited = let(maximum(constant(EXP_LOWEST, x), x))
    return let.around(float_of(_power_bits(let, limited, _ROUND + RAISED)))


def _power_bits(let: Lets, x: Expr, magic: float) -> Expr:
    """Return the bits of ``exp(x)`` times the power of two that `magic` adds to `_ROUND`."""
    rounded = let(multiply_add(x, constant(math.log2(math.e), x), constant(magic, x)))
    n = let(rounded - constant(magic, x))
    r = let(multiply_add(n, constant(-_LOG2_HIGH, x), x))
    r = let(multiply_add(n, constant(-_LOG2_LOW, x), r))
    return bits_of(polynomial(_EXP, r)) + shift_left(bits_of(rounded), MANTISSA_BITS)


def sigmoid(x: Expr) -> Expr:
    """Return ``1 / (1 + exp(-x))``, for negative `x` as ``exp(x) / (1 + exp(x))``."""
    let = Lets()
    x = let(x)
    e = let(exp_of_negative(float_of(bits_of(x) | int_constant(SIGN_BIT, x))))
    share = let(_reciprocal(constant(1, x) + e))
    return let.around(share * Select(x < constant(0, x), e, constant(1, x)))


def _reciprocal(x: Expr) -> Expr:
    """Return ``1 / x`` for 1 <= x <= 2 with a relative error of 1e-4."""
    let = Lets()
    x = let(x)
    y = let(polynomial(_RECIPROCAL, x))
    error = let(multiply_add(constant(0, x) - x, y, constant(1, x)))
    return let.around(multiply_add(y, error, y))


def tanh(x: Expr) -> Expr:
    """Return the hyperbolic tangent of `x`, from 0.625 on as that of ``abs(x)``."""
    let = Lets()
    x = let(x)
    sign = let(bits_of(x) & int_constant(SIGN_BIT, x))
    magnitude = let(float_of(bits_of(x) ^ sign))
    square = let(x * x)
    small = x * square * polynomial(_TANH, square) + x
    e = let(exp_of_negative(magnitude * constant(-2, x)))
    large = let((constant(1, x) - e) * _reciprocal(constant(1, x) + e))
    signed = float_of(bits_of(large) | sign)
    return let.around(Select(magnitude < constant(TANH_SMALL, x), small, signed))


def gelu(x: Expr) -> Expr:
    """Return ``x * (1 + erf(x / sqrt(2))) / 2``."""
    return _gated(x, GELU_REACH, _GELU)


def gelu_tanh(x: Expr) -> Expr:
    """Return the approximation ``x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2``."""
    return _gated(x, GELU_REACH, _GELU_TANH)


def silu(x: Expr) -> Expr:
    """Return ``x * sigmoid(x)``."""
    return _gated(x, SILU_REACH, _SILU)


def _gated(x: Expr, reach: float, coefficients: tuple[float, ...]) -> Expr:
    """Return ``x * (1 / 2 + c * P(c))`` with `c` the limited `x`, and P a polynomial of `c`**2."""
    let = Lets()
    x = let(x)
    limited = let(clip(x, -reach, reach))
    scaled = let(limited * constant(math.sqrt(2) / reach, x))
    t = let(multiply_add(scaled, scaled, constant(-1, x)))
    gate = multiply_add(limited, let(polynomial(coefficients, t)), constant(0.5, x))
    return let.around(x * let(gate))

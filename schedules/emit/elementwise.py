"""The expressions of the functions in `tvm_sparse.costs.elementwise`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.costs.elementwise import parse
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.quantization import Quantization
from tvm_sparse.schedules.emit import half_math, vector_math
from tvm_sparse.schedules.emit.expressions import (
    bits_of,
    bound,
    clip,
    constant,
    float_of,
    int_constant,
    maximum,
    minimum,
)

if TYPE_CHECKING:
    from tvm.ir import Expr


def _abs(x: Expr) -> Expr:
    not_sign = 2 ** (x.ty.dtype.bits - 1) - 1
    return float_of(bits_of(x) & int_constant(not_sign, x))


def _negative(x: Expr) -> Expr:
    return x * constant(-1, x)


def _rsqrt(x: Expr) -> Expr:
    return constant(1, x) / T.sqrt(x)


_ROUNDING = 1.5 * 2**23
"""Added to a float32 below 2**22, it leaves an integer, the even one of two equally near ones."""


def fake_quantize(
    x: Expr, scale: float, zero_point: float, low: float, high: float, tie: float = 0.0
) -> Expr:
    """Return the nearest float32 that an integer of some bits stands for; NaN stays NaN."""
    inverse = float(Quantization(scale, int(zero_point), int(low), int(high)).inverse)
    # TVM's simplifier would cancel an addition with a subtraction, but not with a call.
    operands = x, constant(inverse, x), constant(_ROUNDING + tie, x)
    steps = T.call_llvm_pure_intrin(x.ty.dtype, "llvm.fmuladd", *operands) - operands[2]
    return clip(steps, low - zero_point, high - zero_point) * constant(scale, x)


EXPRESSIONS: dict[str, Callable[..., Expr]] = {
    "abs": _abs,
    "clip": clip,
    "erf": vector_math.erf,
    "exp": vector_math.exp,
    "fake_quantize": fake_quantize,
    "gelu": vector_math.gelu,
    "gelu_tanh": vector_math.gelu_tanh,
    "hardswish": vector_math.hardswish,
    "leaky_relu": vector_math.leaky_relu,
    "log": vector_math.log,
    "negative": _negative,
    "relu": vector_math.relu,
    "relu6": vector_math.relu6,
    "rsqrt": _rsqrt,
    "sigmoid": vector_math.sigmoid,
    "silu": vector_math.silu,
    "softplus": vector_math.softplus,
    "sqrt": T.sqrt,
    "tanh": vector_math.tanh,
    "add": lambda a, b: a + b,
    "divide": lambda a, b: a / b,
    "maximum": maximum,
    "minimum": minimum,
    "multiply": lambda a, b: a * b,
    "power": T.pow,
    "subtract": lambda a, b: a - b,
}
"""The functions by name; operands come first, and then parameters."""

HALF_EXPRESSIONS: dict[str, Callable[..., Expr]] = EXPRESSIONS | {
    "erf": half_math.wide(vector_math.erf),
    "exp": half_math.exp,
    "fake_quantize": half_math.wide(fake_quantize),
    "gelu": half_math.gelu,
    "gelu_tanh": half_math.gelu_tanh,
    "log": half_math.wide(vector_math.log),
    "power": half_math.wide(T.pow),
    "divide": half_math.wide(EXPRESSIONS["divide"]),
    "rsqrt": half_math.wide(_rsqrt),
    "sqrt": half_math.wide(T.sqrt),
    "sigmoid": half_math.sigmoid,
    "silu": half_math.silu,
    "softplus": half_math.wide(vector_math.softplus),
    "tanh": half_math.tanh,
}
"""The functions of float16 values. Those that are the same as in float32 use the arithmetic of
their operands' type."""


def rounded(value: Expr, quantizations: Iterable[Quantization]) -> Expr:
    """Return a float32 or float16 vector that is rounded to the numbers of quantizations."""
    for steps in quantizations:
        numbers = ", ".join(str(float(number)) for number in steps.numbers)
        value = bound(expression(f"fake_quantize({numbers})")(value))
    return value


def expression(name: str) -> Callable[..., Expr]:
    """Return the function that `name` names with its parameters.

    It takes scalars or vectors of float32 or float16.

    Raises
    ------
    ValueError
        If there is no such function.
    """
    function, parameters = parse(name)

    def of_operands(*operands: Expr) -> Expr:
        is_half = operands[0].ty.dtype.bits == DType.FLOAT16.bits
        return (HALF_EXPRESSIONS if is_half else EXPRESSIONS)[function.name](*operands, *parameters)

    return of_operands

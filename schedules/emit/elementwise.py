"""The expressions of the functions in `tvm_sparse.costs.elementwise`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.costs.elementwise import parse
from tvm_sparse.schedules.emit import vector_math
from tvm_sparse.schedules.emit.expressions import (
    bits_of,
    clip,
    constant,
    float_of,
    int_constant,
    maximum,
    minimum,
)

if TYPE_CHECKING:
    from tvm.ir import Expr

NOT_SIGN = 2**31 - 1
"""The bits of a float32 without its sign."""


def _abs(x: Expr) -> Expr:
    return float_of(bits_of(x) & int_constant(NOT_SIGN, x))


def _negative(x: Expr) -> Expr:
    return x * constant(-1, x)


def _rsqrt(x: Expr) -> Expr:
    return constant(1, x) / T.sqrt(x)


EXPRESSIONS: dict[str, Callable[..., Expr]] = {
    "abs": _abs,
    "clip": clip,
    "erf": vector_math.erf,
    "exp": vector_math.exp,
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


def expression(name: str) -> Callable[..., Expr]:
    """Return the function of float32 scalars or vectors that `name` names with its parameters.

    Raises
    ------
    ValueError
        If there is no such function.
    """
    function, parameters = parse(name)
    of_operands = EXPRESSIONS[function.name]
    return lambda *operands: of_operands(*operands, *parameters)

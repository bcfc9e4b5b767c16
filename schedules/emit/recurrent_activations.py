"""The activations of ONNX's recurrent operators, written like ``hard_sigmoid(0.2,0.5)``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.tirx import Select

from tvm_sparse.schedules.emit import vector_math
from tvm_sparse.schedules.emit.elementwise import EXPRESSIONS
from tvm_sparse.schedules.emit.expressions import Lets, clip, constant

if TYPE_CHECKING:
    from tvm.ir import Expr


def _affine(x: Expr, alpha: float, beta: float) -> Expr:
    return x * constant(alpha, x) + constant(beta, x)


def _thresholded_relu(x: Expr, alpha: float) -> Expr:
    let = Lets()
    x = let(x)
    return let.around(Select(x < constant(alpha, x), constant(0, x), x))


def _scaled_tanh(x: Expr, alpha: float, beta: float) -> Expr:
    return constant(alpha, x) * vector_math.tanh(x * constant(beta, x))


def _hard_sigmoid(x: Expr, alpha: float, beta: float) -> Expr:
    return clip(_affine(x, alpha, beta), 0, 1)


def _elu(x: Expr, alpha: float) -> Expr:
    let = Lets()
    x = let(x)
    below = constant(alpha, x) * (let(vector_math.exp(x)) - constant(1, x))
    return let.around(Select(x < constant(0, x), below, x))


def _softsign(x: Expr) -> Expr:
    let = Lets()
    x = let(x)
    return let.around(x / (constant(1, x) + EXPRESSIONS["abs"](x)))


ACTIVATIONS: dict[str, Callable[..., Expr]] = {
    "affine": _affine,
    "elu": _elu,
    "hard_sigmoid": _hard_sigmoid,
    "leaky_relu": vector_math.leaky_relu,
    "relu": vector_math.relu,
    "scaled_tanh": _scaled_tanh,
    "sigmoid": vector_math.sigmoid,
    "softplus": vector_math.softplus,
    "softsign": _softsign,
    "tanh": vector_math.tanh,
    "thresholded_relu": _thresholded_relu,
}
"""The functions by name; the operand comes first, and then the parameters."""


def activation(name: str) -> Callable[[Expr], Expr]:
    """Return the function of float32 scalars or vectors that `name` names with its parameters."""
    function, parameters = re.fullmatch(r"(\w+)(?:\((.*)\))?", name).groups()  # type: ignore[union-attr]
    values = [float(value) for value in parameters.split(",")] if parameters else []
    return lambda x: ACTIVATIONS[function](x, *values)

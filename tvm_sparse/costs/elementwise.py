"""The functions of single elements: the one list of their names, operands and costs.

- `tvm_sparse.schedules.emit.elementwise` has an expression for each of them, by the same name.
- `tvm_sparse.passes.ir.operators.elementwise` finds their calls in a network, by `relax`.

A function whose name has parameters is written like ``leaky_relu(0.1)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tvm_sparse.dtypes import ACTIVATIONS, DType


@dataclass(frozen=True)
class Function:
    """A function of single elements.

    Attributes
    ----------
    name : str
        The name in epilogues and stages, without parameters.
    relax : str
        The name of the operator in Relax.
    operands : int
        Tensors that it takes.
    operations : float
        Vector operations that take as long as the function of a vector. An addition, a
        multiplication or a comparison is one.
    half_operations : float, optional
        The operations for vectors of float16, if they are others.
    in_epilogue : bool
        Whether it may follow a linear operator while the result is in registers.
    parameters : tuple of str
        The numbers that the name of a call holds in parentheses.
    optional : tuple of str
        Numbers that may follow them.
    """

    name: str
    relax: str
    operands: int = 1
    operations: float = 1.0
    half_operations: float | None = None
    in_epilogue: bool = False
    parameters: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


# Operations were measured on a Xeon with AVX-512, in vectors of 16 float32. Those of `erf`, `log`
# and `power` were measured on an EPYC with AVX-512 as multiples of `exp`, and those of `sqrt` and
# `rsqrt` there as multiples of `divide`. `power` is a call of libm for each element.
# Those of float16, in vectors of 32, were measured on a Xeon with AVX512-FP16.
_UNARY = (
    Function("abs", "relax.abs"),
    Function("clip", "relax.clip", operations=2.0, parameters=("low", "high")),
    Function("erf", "relax.erf", operations=24.0, half_operations=62.0),
    Function("exp", "relax.exp", operations=14.0, half_operations=17.0),
    Function(
        "fake_quantize",
        "relax.tvm_sparse.fake_quantize",
        operations=4.0,
        half_operations=10.0,
        in_epilogue=True,
        parameters=("scale", "zero_point", "low", "high"),
        optional=("tie",),
    ),
    Function("gelu", "relax.nn.gelu", operations=28.0, half_operations=14.0, in_epilogue=True),
    Function(
        "gelu_tanh", "relax.nn.gelu_tanh", operations=28.0, half_operations=14.0, in_epilogue=True
    ),
    Function("hardswish", "relax.tvm_sparse.hardswish", operations=5.0, in_epilogue=True),
    Function("leaky_relu", "relax.nn.leakyrelu", in_epilogue=True, parameters=("slope",)),
    Function("log", "relax.log", operations=27.0, half_operations=73.0),
    Function("negative", "relax.negative"),
    Function("relu", "relax.nn.relu", in_epilogue=True),
    Function("relu6", "relax.clip", operations=2.0, in_epilogue=True),
    Function("rsqrt", "relax.rsqrt", operations=48.0, half_operations=84.0),
    Function("sigmoid", "relax.sigmoid", operations=25.0, half_operations=23.0, in_epilogue=True),
    Function("silu", "relax.nn.silu", operations=26.0, half_operations=18.0, in_epilogue=True),
    Function(
        "softplus",
        "relax.tvm_sparse.softplus",
        operations=42.0,
        half_operations=91.0,
        in_epilogue=True,
    ),
    Function("sqrt", "relax.sqrt", operations=30.0, half_operations=46.0),
    Function("tanh", "relax.tanh", operations=34.0, half_operations=34.0, in_epilogue=True),
)
_BINARY = (
    Function("add", "relax.add", 2),
    Function("divide", "relax.divide", 2, operations=19.0, half_operations=38.0),
    Function("maximum", "relax.maximum", 2),
    Function("minimum", "relax.minimum", 2),
    Function("multiply", "relax.multiply", 2),
    Function("power", "relax.power", 2, operations=510.0, half_operations=1020.0),
    Function("subtract", "relax.subtract", 2),
)

FUNCTIONS: dict[str, Function] = {function.name: function for function in (*_UNARY, *_BINARY)}
"""All functions, by name."""


def parse(name: str) -> tuple[Function, tuple[float, ...]]:
    """Return the function of a name like ``tanh`` or ``leaky_relu(0.1)``, and its parameters.

    Raises
    ------
    ValueError
        If there is no such function, or it has other parameters.
    """
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?", name)
    function = FUNCTIONS.get(match[1]) if match else None
    parameters = match[2].split(",") if match and match[2] else []
    least = len(function.parameters) if function else 0
    if function is None or not least <= len(parameters) <= least + len(function.optional):
        known = ", ".join(sorted(map(_signature, FUNCTIONS.values())))
        raise ValueError(f"unknown function {name!r}; known: {known}")
    return function, tuple(float(parameter) for parameter in parameters)


def operations_of(name: str, dtype: DType = ACTIVATIONS) -> float:
    """Return the vector operations that take as long as a function of a vector, by its name."""
    function, _ = parse(name)
    if dtype == DType.FLOAT16 and function.half_operations is not None:
        return function.half_operations
    return function.operations


def _signature(function: Function) -> str:
    parameters = f"({', '.join(function.parameters)})" if function.parameters else ""
    return function.name + parameters

"""Sizes that a function learns when it runs: parameters of type int64, one for each `Extent`.

A function knows the extents that it was declared with and no others. So no loop nest takes the hint
of an extent for its value: what writes an extent into code asks `size` for its expression.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script import builder as T

from tvm_sparse.sizes.extent import Extent

if TYPE_CHECKING:
    from tvm.ir import Expr

_variables: ContextVar[dict[int, Expr] | None] = ContextVar("variables", default=None)


def parameters_of(sizes: Iterable[int]) -> tuple[Extent, ...]:
    """Return the sizes that a function takes as parameters: each extent once, in order."""
    return tuple(dict.fromkeys(size for size in sizes if isinstance(size, Extent)))


@contextlib.contextmanager
def named(sizes: Iterable[int]) -> Iterator[list[Expr]]:
    """Give each extent among `sizes` a variable, and yield the variables in their order."""
    extents = parameters_of(sizes)
    variables = [tirx.Var(f"size{i}", "int64") for i in range(len(extents))]
    token = _variables.set(dict(zip(extents, variables, strict=True)))
    try:
        yield variables
    finally:
        _variables.reset(token)


def declare(variables: Iterable[Expr]) -> None:
    """Add the variables from `named` to the parameters of the function."""
    for variable in variables:
        T.arg(variable.name, variable)


def size(extent: int) -> Any:
    """Return an extent as an expression: a number, or the parameter that holds it.

    Raises
    ------
    ValueError
        If the function was not declared with this extent.
    """
    if not isinstance(extent, Extent):
        return T.int64(extent)
    variable = (_variables.get() or {}).get(extent)
    if variable is None:
        raise ValueError(f"the function does not know the size {extent!r}")
    return variable


def factor(extent: int) -> Any:
    """Return an extent as a factor beside an expression: a plain number stays one."""
    return size(extent) if isinstance(extent, Extent) else extent

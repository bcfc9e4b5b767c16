"""Combinations of the lanes of a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

if TYPE_CHECKING:
    from tvm.ir import Expr


def across_lanes(value: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """Combine the lanes of a vector to a scalar."""
    lanes = value.ty.dtype.lanes
    while lanes > 1:
        lanes //= 2
        whole = T.bind(value)
        low, high = (T.Shuffle([whole], list(range(i, i + lanes))) for i in (0, lanes))
        value = combine(low, high)
    return value

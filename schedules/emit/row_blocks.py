"""Loops over blocks of rows or channels whose first or last block is different."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

if TYPE_CHECKING:
    from collections.abc import Callable

    from tvm.ir import Expr


def visit_blocks(block: Expr, rows: int, size: int, visit: Callable[[int], None]) -> None:
    """Call `visit` with the rows of a block: `size`, or fewer in the last block."""
    whole, rest = divmod(rows, size)
    if not (whole and rest):
        visit(rest or size)
        return
    with T.If(block < whole):
        with T.Then():
            visit(size)
        with T.Else():
            visit(rest)


def peel_ends(count: int) -> list[tuple[int, int]]:
    """Split ``range(count)`` so that its first and its last element stand alone."""
    cuts = sorted({0, 1, max(count - 1, 1), count})
    return list(itertools.pairwise(cuts))

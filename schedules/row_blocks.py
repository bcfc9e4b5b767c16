"""Loops over blocks of rows or channels whose first or last one is different."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tvm.ir import Expr


def row_end(row: Expr, size: int, rows: int) -> Expr:
    """Return where the block of `size` rows that begins at `row` ends."""
    return row + size if rows % size == 0 else T.min(row + size, T.int64(rows))


def visit_blocks(block: Expr, rows: int, size: int, visit: Callable[[int], None]) -> None:
    """Call `visit` with the number of rows of a block of `size` rows; the last may have fewer."""
    whole, rest = divmod(rows, size)
    if not (whole and rest):
        visit(rest or size)
        return
    with T.If(block < whole):
        with T.Then():
            visit(size)
        with T.Else():
            visit(rest)


def each_tile(first: Expr, end: Expr, height: int, tile: int) -> Iterator[tuple[Expr, int]]:
    """Yield the first row of every tile of a run of rows, and how many it has.

    What is done with it is emitted twice at most: as a loop over whole tiles, and for what is left
    at the end of an image. The run begins at a tile, and ends at one or at the image's end.
    """
    if height >= tile:
        with T.serial(T.int64(0), (end - first) // tile if tile > 1 else end - first) as i:
            yield T.bind(first + i * tile), tile
    if height % tile:
        with T.If(end % tile != 0), T.Then():
            yield T.bind(end - height % tile), height % tile


def peel_ends(count: int) -> list[tuple[int, int]]:
    """Split ``range(count)`` so that its first and its last element stand alone."""
    cuts = sorted({0, 1, max(count - 1, 1), count})
    return list(itertools.pairwise(cuts))

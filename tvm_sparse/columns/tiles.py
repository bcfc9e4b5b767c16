"""How a run of rows is cut into tiles: the loops that run and every cost model ask here."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from tvm_sparse.sizes.tensor import Row


@dataclass(frozen=True)
class Tiles:
    """The cut of runs of rows into tiles, whose rows a stage computes together.

    A run is cut from its first row on into whole tiles. The rest of the run, which has fewer rows,
    joins the last whole tile if the stage can compute so many rows together; otherwise it is a tile
    of its own.

    Attributes
    ----------
    rows : int
        Rows of a whole tile.
    most : int
        The most rows that the stage can compute together; it may be less than `rows` where no rest
        ever joins.
    """

    rows: int = 1
    most: int = 1

    @property
    def largest(self) -> int:
        """The most rows of a tile of any run."""
        return max(self.rows, min(2 * self.rows - 1, self.most))

    def joins(self, rest: Any) -> Any:
        """Return whether `rest` rows, fewer than a tile, join a whole tile before them.

        Of an array of numbers of rows, it is an array.
        """
        return (rest > 0) & (self.rows + rest <= self.most)

    def sizes(self, run: int) -> list[int]:
        """Return the rows of every tile of a run of `run` rows."""
        whole, rest = divmod(run, self.rows)
        if whole and self.joins(rest):
            return [self.rows] * (whole - 1) + [self.rows + rest]
        return [self.rows] * whole + [rest] * (rest > 0)

    def cut(self, first: int, end: int) -> list[tuple[int, int]]:
        """Return the first row of every tile of the rows ``[first, end)``, and its rows."""
        sizes = self.sizes(end - first)
        starts = itertools.accumulate(sizes, initial=first)
        return list(zip(starts, sizes, strict=False))

    def possible(self, runs: Collection[int]) -> list[int]:
        """Return every number of rows that a tile has in runs of `runs` rows.

        Whole tiles come first. Tiles with the same rest follow one another, the larger one first.
        """
        found = {size for run in runs for size in self.sizes(run)}
        return sorted(found, key=lambda size: (size % self.rows, -size))

    def any_runs(self) -> AnyRuns:
        """Return runs of any number of rows."""
        return AnyRuns(self.rows)

    def up(self, rows: Row) -> Row:
        """Return the rows of the fewest whole tiles that hold `rows` rows."""
        return rows if self.rows == 1 else (rows + (self.rows - 1)) // self.rows * self.rows


@dataclass(frozen=True)
class AnyRuns(Collection[int]):
    """Runs of any number of rows, by the numbers up to two tiles.

    A longer run has tiles of no other sizes.

    Attributes
    ----------
    rows : int
        Rows of a whole tile.
    """

    rows: int

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, 2 * self.rows + 1))

    def __len__(self) -> int:
        return 2 * self.rows

    def __contains__(self, run: object) -> bool:
        return isinstance(run, int) and run > 0


ONE_ROW = Tiles()
"""Tiles of one row."""

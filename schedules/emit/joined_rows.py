"""Vectors that span several rows of panels, each of which has few lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.dtypes import DType
from tvm_sparse.schedules.emit.buffers import filled, vector
from tvm_sparse.schedules.emit.expressions import bound
from tvm_sparse.schedules.emit.panel_memory import Tile

if TYPE_CHECKING:
    from tvm.ir import Expr


class JoinedRows(Tile):
    """The rows of a tile of panels as vectors that span rows, addressed as ``[v, channel, lane]``.

    Vectors and rows are as in `JoinedWindow`. A load joins rows, a store cuts a vector into rows.

    Parameters
    ----------
    tile : Tile
        The rows.
    count : int
        Number of the rows; what a vector spans beyond them is neither loaded nor stored.
    lanes : int
        Lanes of the panels.
    pitch : int
        Lanes of a vector from one row to the next, at least `lanes`.
    width : int
        Values per vector.
    dtype : DType
        Type of the values.
    """

    def __init__(
        self, tile: Tile, count: int, lanes: int, pitch: int, width: int, dtype: DType
    ) -> None:
        self._tile, self._count = tile, count
        self._lanes, self._pitch, self._width, self._dtype = lanes, pitch, width, dtype

    def __getitem__(self, place: tuple[int, Expr, Expr]) -> Expr:
        v, channel, _ = place
        zeros = filled(0, self._lanes, self._dtype)
        parts: list[Expr] = []
        for j in range(self._joined):
            i = j * self._part + v
            row = self._tile[i, channel, self._row] if i < self._count else zeros
            parts += [row, *[zeros] * (self._pitch // self._lanes - 1)]
        return T.Shuffle(parts, list(range(self._width))) if len(parts) > 1 else parts[0]

    def store(self, value: Expr, i: int, channel: Expr, lane: Expr) -> None:
        """Store vector `i` of a channel."""
        value = bound(value)
        for j in range(self._joined):
            row, first = j * self._part + i, j * self._pitch
            if row < self._count:
                part = T.Shuffle([value], list(range(first, first + self._lanes)))
                self._tile.store(part, row, channel, self._row)

    @property
    def _joined(self) -> int:
        return self._width // self._pitch

    @property
    def _part(self) -> int:
        """Rows of a part of the tile."""
        return -(-self._count // self._joined)

    @property
    def _row(self) -> Expr:
        return vector(T.int64(0), self._lanes)


class PartialSums(Tile):
    """The sums of K blocks of a tile, in scratch memory; the last block's results go elsewhere.

    Parameters
    ----------
    memory : Buffer
        Flat memory for all channels of all vectors.
    vectors, width : int
        Vectors of a channel, and values of one.
    results : Tile, optional
        Where the results go; None before the last K block.
    """

    def __init__(self, memory: Expr, vectors: int, width: int, results: Tile | None) -> None:
        self._memory, self._vectors, self._width = memory, vectors, width
        self._results = results

    def __getitem__(self, place: tuple[int, Expr, Expr]) -> Expr:
        return self._memory[self._at(*place[:2])]

    def store(self, value: Expr, i: int, channel: Expr, lane: Expr) -> None:
        """Store vector `i` of a channel."""
        if self._results is not None:
            self._results.store(value, i, channel, lane)
        else:
            T.buffer_store(self._memory, value, [self._at(i, channel)])

    def _at(self, i: int, channel: Expr) -> Expr:
        return vector((channel * self._vectors + i) * self._width, self._width)

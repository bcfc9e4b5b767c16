"""The float sums of a group of output channels, for some rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import Registers, filled, scratch, vector

if TYPE_CHECKING:
    from tvm.ir import Expr


class RowTotals:
    """Vectors of float32 sums: in registers, or in memory if the rows come in several tiles.

    Parameters
    ----------
    rows : int
        All rows.
    tile : int
        The most rows of a tile.
    vectors, lanes : int
        Vectors of a row, and the lanes of each.
    """

    def __init__(self, rows: int, tile: int, vectors: int, lanes: int) -> None:
        self.rows, self.vectors, self.lanes = rows, vectors, lanes
        self._registers = Registers(rows * vectors, lanes) if rows <= tile else None
        self._memory: Any = None if rows <= tile else scratch(rows * vectors * lanes)

    def clear(self) -> None:
        """Set all sums to zero."""
        if self._registers is not None:
            for i in range(self.rows * self.vectors):
                self._registers[i] = filled(0, self.lanes)
            return
        with T.serial(T.int64(0), T.int64(self.rows * self.vectors)) as i:
            T.buffer_store(
                self._memory, filled(0, self.lanes), [vector(i * self.lanes, self.lanes)]
            )

    def get(self, first: Expr, row: int, number: int) -> Expr:
        """Return a vector of row `row` of the tile that begins with row `first`."""
        if self._registers is not None:
            return self._registers[row * self.vectors + number]
        return self._memory[self._place(first, row, number)]

    def add(self, first: Expr, row: int, number: int, value: Expr) -> None:
        """Add to a vector, which is named as `get` names it."""
        total = self.get(first, row, number) + value
        if self._registers is not None:
            self._registers[row * self.vectors + number] = total
        else:
            T.buffer_store(self._memory, total, [self._place(first, row, number)])

    def _place(self, first: Expr, row: int, number: int) -> Expr:
        return vector(((first + row) * self.vectors + number) * self.lanes, self.lanes)

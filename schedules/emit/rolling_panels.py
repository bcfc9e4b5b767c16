"""Rows of panels in scratch memory, which a stage of a tensor column fills for its readers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.columns.memory import is_less
from tvm_sparse.schedules.emit.buffers import number, scratch
from tvm_sparse.schedules.emit.panel_memory import Distances, Panels, Tile, ahead
from tvm_sparse.schedules.emit.sizes import factor
from tvm_sparse.sizes.tensor import Tensor

if TYPE_CHECKING:
    from tvm.ir import Expr


class RollingPanels(Panels):
    """Rows of an image in scratch memory: those of the current run, or the last ones of a column.

    Where a call has few rows, the memory holds those of all images, see `allocate_all`.

    Parameters
    ----------
    tensor : Tensor
        The tensor whose rows are kept.
    capacity : int
        Number of the rows that the memory holds.
    is_carried : bool
        Whether rows stay from step to step; behind the last place, rows go to place 0 again.
    is_split : bool
        Whether a tile may begin at the end of the memory and continue at its beginning.

    Attributes
    ----------
    origin : Expr
        The row at place 0.
    """

    origin: Expr

    def __init__(self, tensor: Tensor, capacity: int, is_carried: bool, is_split: bool) -> None:
        super().__init__(tensor)
        self.capacity, self.is_carried, self.is_split = capacity, is_carried, is_split
        self._holds_all = False

    def allocate_all(self, rows: int) -> None:
        """Allocate memory for all rows of all images, of which there are up to `rows`."""
        self._holds_all = True
        self._allocate(rows)

    def allocate(self) -> None:
        """Allocate the memory, for as long as the current loop or block runs."""
        self._holds_all = False
        self._allocate(self.capacity)

    def _allocate(self, rows: int) -> None:
        size = rows * self.tensor.channels * self.tensor.lanes
        self._memory = scratch(size, self.tensor.dtype)
        # TVM cuts memory down to the accesses that it sees, so it must see both ends.
        for end in (0, size - 1):
            T.buffer_store(self._memory, number(0, self.tensor.dtype), [T.int64(end)])

    def at(self, image: Expr, row: Expr) -> Expr:
        """Return the row's place."""
        if self._holds_all:
            return image * factor(self.tensor.rows) + row
        if self.capacity == 1:  # inner loops then need one register less
            return T.int64(0)
        # The place is never below 0; without the maximum, LLVM would spread the difference over the
        # addresses of inner loops.
        place = T.max(row - self.origin, T.int64(0))
        wraps = self.is_carried and is_less(self.capacity, self.tensor.rows)
        return place % self.capacity if wraps else place

    def tile(self, image: Expr, row: Expr, count: int = 1) -> Tile:
        """Return `count` rows from `row` on, addressed as ``[i, channel, lane]``."""
        if not self.is_split or self._holds_all:
            return super().tile(image, row)
        return _SplitTile(self, T.bind(self.at(image, row)), count, self.capacity)

    def __getitem__(self, place: tuple[Expr, ...]) -> Expr:
        return self._memory[self._index(*place)]

    def store(self, value: Expr, at: Expr, channel: Expr, lane: Expr) -> None:
        """Store a value or a vector."""
        T.buffer_store(self._memory, value, [self._index(at, channel, lane)])

    def flat(self, at: Expr, channel: Expr | int, lane: Expr | int, size: int) -> Any:
        """Return a view."""
        start = T.bind(self._index(at, channel, lane))
        return Distances(lambda index: self._memory[index], start)

    def prefetch(self, at: Expr, channel: Expr, lane: Expr) -> None:
        """Do nothing: the rows were just computed."""

    def _index(self, at: Expr, channel: Expr | int, lane: Expr | int) -> Expr:
        return ahead(lane, (at * self.tensor.channels + channel) * self.tensor.lanes)


class _SplitTile(Tile):
    """Rows of a rolling buffer, which may begin at its end and continue at its beginning."""

    def __init__(self, panels: Panels, first: Expr, count: int, capacity: int) -> None:
        super().__init__(panels, first)
        following = (first + i for i in range(1, count))
        self._places = [first, *(T.bind(_wrapped(place, capacity)) for place in following)]

    def at(self, i: int) -> Expr:
        """Return the place of row `i`."""
        return self._places[i]

    def ahead(self, i: int) -> Expr | int:
        """Return the floats from the first row to row `i`."""
        return (self._places[i] - self._places[0]) * self.row_floats if i else 0

    def prefetch(
        self, rows: Iterable[int], channel: Expr, channels: int, part: Expr, parts: int
    ) -> None:
        """Do nothing: the rows were just computed."""


def _wrapped(place: Expr, capacity: int) -> Expr:
    return T.Select(place >= capacity, place - capacity, place)

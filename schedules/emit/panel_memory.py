"""The memory of panels: the parameters of a function; `rolling_panels` has scratch memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.rates import line_elements
from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.schedules.emit.buffers import (
    argument,
    converted,
    flat,
    prefetch,
)
from tvm_sparse.schedules.emit.sizes import factor, size
from tvm_sparse.sizes.tensor import Tensor

if TYPE_CHECKING:
    from tvm.ir import Expr


class Panels(ABC):
    """The memory of a tensor's rows; elements are addressed as ``[at, channel, lane]``.

    Parameters
    ----------
    tensor : Tensor
        The tensor.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @property
    def channel_pitch(self) -> Any:
        """Floats from one channel of a row to the next."""
        return self.tensor.lanes

    @abstractmethod
    def at(self, image: Expr, row: Expr) -> Any:
        """Return the place of a row; a number added to it moves it by as many rows."""

    @abstractmethod
    def __getitem__(self, place: tuple[Expr, ...]) -> Expr:
        """Return the value, or for a Ramp as lane the vector, at ``(at, channel, lane)``."""

    @abstractmethod
    def store(self, value: Expr, at: Expr, channel: Expr, lane: Expr) -> None:
        """Store a value or a vector."""

    @abstractmethod
    def flat(self, at: Expr, channel: Expr | int, lane: Expr | int, size: int) -> Any:
        """Return a flat view from an element on, to be indexed with distances and only read."""

    @abstractmethod
    def prefetch(self, at: Expr, channel: Expr, lane: Expr) -> None:
        """Ask for the cache line of an element, unless it is near anyway."""

    def tile(self, image: Expr, row: Expr, count: int = 1) -> Tile:
        """Return `count` rows from `row` on, addressed as ``[i, channel, lane]``."""
        return Tile(self, T.bind(self.at(image, row)))


class Tile:
    """Rows of panels that lie one after another."""

    def __init__(self, panels: Panels, first: Expr) -> None:
        self._panels, self._first = panels, first

    def at(self, i: int) -> Any:
        """Return the place of row `i`."""
        return self._first + i

    def ahead(self, i: int) -> Expr | int:
        """Return the floats from the first row to row `i`."""
        return i * self.row_floats

    def __getitem__(self, place: tuple[int, Expr, Expr]) -> Expr:
        i, channel, lane = place
        return self._panels[self.at(i), channel, lane]

    def store(self, value: Expr, i: int, channel: Expr, lane: Expr) -> None:
        """Store a value or a vector."""
        self._panels.store(value, self.at(i), channel, lane)

    def flat(self, channel: Expr | int, lane: Expr | int, size: int) -> Any:
        """Return a flat view from an element on, to be indexed with distances and only read."""
        return self._panels.flat(self._first, channel, lane, size)

    def prefetch(
        self, rows: Iterable[int], channel: Expr, channels: int, part: Expr, parts: int
    ) -> None:
        """Ask for a part of some channels of rows, which may lie behind the tile.

        Parameters
        ----------
        rows : iterable of int
            Distances from the first row.
        channel, channels : Expr, int
            The first channel, and the number of channels.
        part, parts : Expr, int
            Number of the part, and the number of parts that together ask for all channels.
        """
        line_size = line_elements(self._panels.tensor.dtype)
        lines = channels * self._panels.tensor.lanes // line_size
        share = -(-lines // parts)
        with T.serial(T.int64(0), T.int64(share)) as line:
            lane = (part * share + line) * line_size
            for i in rows:
                self._panels.prefetch(self.at(i), channel, lane)

    @property
    def row_floats(self) -> int:
        """Floats of a row."""
        return self._panels.tensor.channels * self._panels.tensor.lanes


class TensorPanels(Panels):
    """The panels of a parameter ``[images * rows, channels, lanes]``.

    Parameters
    ----------
    tensor : Tensor
        The extents.
    """

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor)
        self._is_written = False

    def declare(self, name: str) -> None:
        """Add the parameter to the function."""
        tensor = self.tensor
        rows = size(tensor.images) * size(tensor.rows)
        self.buffer = argument(name, rows, tensor.channels, tensor.lanes, dtype=tensor.dtype)

    def whole(self) -> Expr:
        """Return the region of the whole parameter."""
        return self.buffer[tuple(slice(0, extent) for extent in self.buffer.shape)]

    def at(self, image: Expr, row: Expr) -> Expr:
        """Return the row's number among those of all images."""
        return row if self.tensor.images == 1 else image * factor(self.tensor.rows) + row

    def indices(self, at: Expr, channel: Expr | int, lane: Expr | int) -> tuple[Expr | int, ...]:
        """Return the indices of an element in the parameter."""
        return at, channel, lane

    def __getitem__(self, place: tuple[Expr, ...]) -> Expr:
        return self.buffer[self.indices(*place)]

    def store(self, value: Expr, at: Expr, channel: Expr, lane: Expr) -> None:
        """Store a value or a vector."""
        self._is_written = True
        T.buffer_store(self.buffer, value, list(self.indices(at, channel, lane)))

    def flat(self, at: Expr, channel: Expr | int, lane: Expr | int, size: int) -> Any:
        """Return a view; if the memory is written too, TVM sees the accesses through it."""
        if self._is_written:
            return Distances(lambda index: self[at, channel, index], lane)
        return flat(self[at, channel, lane], size, self.tensor.dtype)

    def prefetch(self, at: Expr, channel: Expr, lane: Expr) -> None:
        """Ask for the cache line of an element."""
        prefetch(self[at, channel, lane])


class Images(TensorPanels):
    """Images that are a parameter ``[images, channels, rows, lanes]``, addressed as panels.

    The parameter is float32. Values are converted as they are read and stored where the tensor has
    another type.
    """

    def declare(self, name: str) -> None:
        """Add the parameter to the function."""
        tensor = self.tensor
        self.buffer = argument(name, tensor.images, tensor.channels, tensor.rows, tensor.lanes)

    def __getitem__(self, place: tuple[Expr, ...]) -> Expr:
        return converted(super().__getitem__(place), self.tensor.dtype)

    def store(self, value: Expr, at: Expr, channel: Expr, lane: Expr) -> None:
        """Store a value or a vector."""
        super().store(converted(value, ACTIVATIONS), at, channel, lane)

    def flat(self, at: Expr, channel: Expr | int, lane: Expr | int, size: int) -> Any:
        """Return a view; values of another type are converted as they are read through it."""
        if self.tensor.dtype == ACTIVATIONS:
            return super().flat(at, channel, lane, size)
        return Distances(lambda index: self[at, channel, index], lane)

    def at(self, image: Expr, row: Expr) -> _ImageRow:
        """Return image and row."""
        return _ImageRow(image, row)

    def tile(self, image: Expr, row: Expr, count: int = 1) -> Tile:
        """Return `count` rows from `row` on, addressed as ``[i, channel, lane]``."""
        return Tile(self, self.at(image, T.bind(row)))

    def indices(
        self, at: _ImageRow, channel: Expr | int, lane: Expr | int
    ) -> tuple[Expr | int, ...]:
        """Return the indices of an element in the parameter."""
        return at.image, channel, at.row, lane

    @property
    def channel_pitch(self) -> Any:
        """Floats from one channel of a row to the next."""
        return factor(self.tensor.rows) * self.tensor.lanes


@dataclass(frozen=True)
class _ImageRow:
    """The place of a row in a batch of images."""

    image: Expr
    row: Expr

    def __add__(self, rows: Expr | int) -> _ImageRow:
        return _ImageRow(self.image, self.row + rows)


class Distances:
    """Reads elements at a distance from the first one."""

    def __init__(self, read: Callable[[Expr], Expr], start: Expr | int) -> None:
        self._read, self._start = read, start

    def __getitem__(self, index: Expr) -> Expr:
        return self._read(ahead(index, self._start))


def ahead(index: Any, by: Expr | int) -> Expr:
    """Add to an index, or to the start of a Ramp."""
    base = getattr(index, "base", None)
    if base is None:
        return index + by
    return T.Ramp(base + by, index.stride, index.lanes)

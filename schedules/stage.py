"""Stages: operators that can be computed for any run of their output rows.

`kernel` makes a stage a PrimFunc of its own, parallel over runs of rows and chunks of channels;
`tvm_sparse.schedules.tensor_column` makes one of several, which hand their rows to one another.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.columns import RowMap, Tensor
from tvm_sparse.schedules.buffers import (
    PARALLEL_ELEMENTS,
    argument,
    flat,
    opaque,
    prefetch,
    scratch,
)

if TYPE_CHECKING:
    from tvm.ir import Expr


class Panels(ABC):
    """Where the rows of a tensor lie; elements are addressed as ``[at, channel, lane]``.

    Parameters
    ----------
    tensor : Tensor
        Whose panels.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @abstractmethod
    def at(self, image: Expr, row: Expr) -> Expr:
        """Return the place of a row; the rows of a tile have consecutive places."""

    @abstractmethod
    def __getitem__(self, place: tuple[Expr, ...]) -> Expr:
        """Return the value, or for a Ramp as lane the vector, at ``(at, channel, lane)``."""

    @abstractmethod
    def store(self, value: Expr, at: Expr, channel: Expr, lane: Expr) -> None:
        """Store a value or a vector."""

    @abstractmethod
    def flat(self, at: Expr, channel: Expr | int, lane: Expr | int, size: int) -> Any:
        """Return what can be indexed with distances from an element on, to read it."""

    @abstractmethod
    def prefetch(self, at: Expr, channel: Expr, lane: Expr) -> None:
        """Ask for the cache line of an element, unless it is near anyway."""

    def tile(self, image: Expr, row: Expr) -> Tile:
        """Return the rows from `row` on, addressed as ``[i, channel, lane]``."""
        return Tile(self, T.bind(self.at(image, row)))


class Tile:
    """Rows of panels that lie one after another."""

    def __init__(self, panels: Panels, at: Expr) -> None:
        self._panels, self._at = panels, at

    def __getitem__(self, place: tuple[Expr | int, Expr, Expr]) -> Expr:
        i, channel, lane = place
        return self._panels[self._at + i, channel, lane]

    def store(self, value: Expr, i: Expr | int, channel: Expr, lane: Expr) -> None:
        """Store a value or a vector."""
        self._panels.store(value, self._at + i, channel, lane)

    def flat(self, channel: Expr | int, lane: Expr | int, size: int) -> Any:
        """Return what can be indexed with distances from an element on, to read it."""
        return self._panels.flat(self._at, channel, lane, size)

    def prefetch(self, i: Expr | int, channel: Expr, lane: Expr) -> None:
        """Ask for the cache line of an element, which may lie in a later row."""
        self._panels.prefetch(self._at + i, channel, lane)


class TensorPanels(Panels):
    """The panels of a parameter ``[images * rows, channels, lanes]``.

    Parameters
    ----------
    tensor : Tensor
        Its extents.
    """

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor)
        self._is_written = False

    def declare(self, name: str) -> None:
        """Add the parameter to the function."""
        tensor = self.tensor
        self.buffer = argument(name, tensor.images * tensor.rows, tensor.channels, tensor.lanes)

    def whole(self) -> Expr:
        """Return the region of all of it."""
        return self.buffer[tuple(slice(0, extent) for extent in self.buffer.shape)]

    def at(self, image: Expr, row: Expr) -> Expr:
        """Return the row's number among those of all images."""
        return row if self.tensor.images == 1 else image * self.tensor.rows + row

    def indices(self, at: Expr, channel: Expr | int, lane: Expr | int) -> tuple[Expr | int, ...]:
        """Return where in the parameter an element is."""
        return at, channel, lane

    def __getitem__(self, place: tuple[Expr, ...]) -> Expr:
        return self.buffer[self.indices(*place)]

    def store(self, value: Expr, at: Expr, channel: Expr, lane: Expr) -> None:
        """Store a value or a vector."""
        self._is_written = True
        T.buffer_store(self.buffer, value, list(self.indices(at, channel, lane)))

    def flat(self, at: Expr, channel: Expr | int, lane: Expr | int, size: int) -> Any:
        """Return a view; of memory that is written too, one that TVM sees through."""
        if self._is_written:
            return _Distances(lambda index: self[at, channel, index], lane)
        return flat(self[at, channel, lane], size)

    def prefetch(self, at: Expr, channel: Expr, lane: Expr) -> None:
        """Ask for the cache line of an element."""
        prefetch(self[at, channel, lane])


class RollingPanels(Panels):
    """The last rows of an image in scratch memory: row r has place ``r % capacity``.

    Parameters
    ----------
    tensor : Tensor
        Of which it keeps rows.
    capacity : int
        Rows, a multiple of every tile that they are computed or read in.
    """

    def __init__(self, tensor: Tensor, capacity: int) -> None:
        super().__init__(tensor)
        self.capacity = capacity

    def allocate(self) -> None:
        """Allocate the memory, for as long as the current loop or block runs."""
        size = self.capacity * self.tensor.channels * self.tensor.lanes
        self._memory = scratch(size)
        # TVM cuts memory down to what is accessed, as far as it knows: the first and last element.
        for end in (0, size - 1):
            T.buffer_store(self._memory, T.float32(0), [T.int64(end)])

    def at(self, image: Expr, row: Expr) -> Expr:
        """Return the row's place."""
        return row if self.capacity >= self.tensor.rows else row % self.capacity

    def __getitem__(self, place: tuple[Expr, ...]) -> Expr:
        return self._memory[self._index(*place)]

    def store(self, value: Expr, at: Expr, channel: Expr, lane: Expr) -> None:
        """Store a value or a vector."""
        T.buffer_store(self._memory, value, [self._index(at, channel, lane)])

    def flat(self, at: Expr, channel: Expr | int, lane: Expr | int, size: int) -> Any:
        """Return a view."""
        start = T.bind(self._index(at, channel, lane))
        return _Distances(lambda index: self._memory[index], start)

    def prefetch(self, at: Expr, channel: Expr, lane: Expr) -> None:
        """Do nothing: the rows were just computed."""

    def _index(self, at: Expr, channel: Expr | int, lane: Expr | int) -> Expr:
        return _ahead(lane, (at * self.tensor.channels + channel) * self.tensor.lanes)


class _Distances:
    """Reads elements at a distance from the first one."""

    def __init__(self, read: Callable[[Expr], Expr], start: Expr | int) -> None:
        self._read, self._start = read, start

    def __getitem__(self, index: Expr) -> Expr:
        return self._read(_ahead(index, self._start))


def _ahead(index: Any, by: Expr | int) -> Expr:
    """Add to an index, or to the start of a Ramp."""
    base = getattr(index, "base", None)
    if base is None:
        return index + by
    return T.Ramp(base + by, index.stride, index.lanes)


class Stage(ABC):
    """An operator on panels whose output rows can be computed in any order.

    Attributes
    ----------
    name : str
        The operator.
    tensor : Tensor
        What it computes.
    panels : mapping of int to (Tensor, RowMap or None)
        Which of its arguments are panels, and the rows of them that an output row sees; None: all.
    tile : int
        Rows that it computes together.
    row_block : int
        Rows of a run when it is a kernel of its own.
    chunks : int
        Parts of its channels that can be computed by different threads.
    most_rows : int
        Rows of its longest run, known when it is emitted.
    chunks_outermost : bool
        Whether a kernel of its own computes all rows of a chunk before those of the next one.
    """

    name: str
    tensor: Tensor
    panels: Mapping[int, tuple[Tensor, RowMap | None]]
    tile: int = 1
    row_block: int = 1
    chunks: int = 1
    most_rows: int = 1
    chunks_outermost: bool = False

    @abstractmethod
    def declare(self, panels: Callable[[int], Panels]) -> None:
        """Declare the arguments in the order of the call; those that are panels come from `panels`.

        Called inside the function, before `allocate` and `compute`.
        """

    def allocate(self) -> None:  # noqa: B027  (most stages need nothing)
        """Allocate memory for runs of at most `most_rows` rows."""

    @abstractmethod
    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image.

        Both are multiples of `tile`, but `end` may be the image's end.

        Parameters
        ----------
        y : Panels
            Where the result goes.
        image, first, end : Expr
            Which rows.
        chunk : Expr, optional
            Which of the chunks; all of them if not given.
        """

    @abstractmethod
    def cycles(self) -> float:
        """Return the compute cycles of all rows, from the nearest cache, summed over cores."""

    def parameter(self, i: int) -> TensorPanels:
        """Return panels argument `i` as a parameter of a function."""
        return TensorPanels(self.panels[i][0])

    def result(self) -> TensorPanels:
        """Return what it computes as a parameter of a function."""
        return TensorPanels(self.tensor)

    def weight_bytes(self) -> int:
        """Return the bytes of constants that every run reads."""
        return 0

    def window_bytes(self) -> int:
        """Return the bytes that a run gathers its inputs into, for each of its rows."""
        return 0

    def key(self) -> str:
        """Return what the time depends on, apart from the tensors."""
        return self.name

    def tiles(self, first: Expr, end: Expr) -> Iterator[tuple[Expr, int]]:
        """Yield the first row of every tile of a run of rows, and how many it has.

        What is done with it is emitted twice at most: for whole tiles, and for what is left at the
        end of an image.
        """
        height, tile = self.tensor.rows, self.tile
        # The bounds of the loop are constants, see `opaque`.
        with T.serial(T.int64(0), T.int64(-(-self.most_rows // tile))) as i:
            row = T.bind(first + i * tile)
            left = opaque(end - row)
            if height >= tile:
                with T.If(left >= tile), T.Then():
                    yield row, tile
            if height % tile:
                with T.If(T.And(left > 0, left < tile)), T.Then():
                    yield row, height % tile

    def each_chunk(self, chunk: Expr | None) -> contextlib.AbstractContextManager[Expr]:
        """Open the loop over the chunks, unless one is given."""
        if chunk is not None:
            return contextlib.nullcontext(chunk)
        return T.serial(T.int64(0), T.int64(self.chunks))

    def work(self) -> int:
        """Return about how many values it touches; few of them are not worth several threads."""
        return PARALLEL_ELEMENTS


def kernel(stage: Stage) -> tvm.tirx.PrimFunc:
    """Make a PrimFunc of a stage, whose parameters are those of its call, and then the result."""
    tensor = stage.tensor
    blocks = -(-tensor.rows // stage.row_block)
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name(stage.name)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        operands: list[TensorPanels] = []

        def operand(i: int) -> TensorPanels:
            operands.append(stage.parameter(i))
            operands[-1].declare(f"x{i}" if i else "x")
            return operands[-1]

        stage.declare(operand)
        y = stage.result()
        y.declare("y")
        count = tensor.images * blocks * stage.chunks
        loop = T.parallel if stage.work() >= PARALLEL_ELEMENTS else T.serial
        with loop(T.int64(0), T.int64(count)) as job, T.sblock(stage.name):
            image = T.axis.spatial(T.int64(tensor.images), job // (blocks * stage.chunks))
            if stage.chunks_outermost:
                chunk = T.axis.spatial(T.int64(stage.chunks), job // blocks % stage.chunks)
                block = T.axis.spatial(T.int64(blocks), job % blocks)
            else:
                block = T.axis.spatial(T.int64(blocks), job // stage.chunks % blocks)
                chunk = T.axis.spatial(T.int64(stage.chunks), job % stage.chunks)
            T.reads(*(panels.whole() for panels in operands))
            T.writes(y.whole())
            first = opaque(block * stage.row_block)
            end = first + stage.row_block
            if tensor.rows % stage.row_block:
                end = opaque(T.min(end, T.int64(tensor.rows)))
            stage.most_rows = min(stage.row_block, tensor.rows)
            stage.allocate()
            stage.compute(y, image, first, end, chunk)
    return builder.get()

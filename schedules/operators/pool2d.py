"""Pooling on image panels: the maximum or the mean over windows.

A window is a rectangle of pixels, so that an output row is made in two passes::

    for output row in parallel:
        for block of channels:
            line[c, :] = over the rows of the window: x[row, c, :]      # whole vectors
            y[row, c, :] = over the width of the window: line[c, pixel...]

The line stays in L1. The padding lies beside its pixels, also in place of lanes that hold no pixel,
so that the second pass is free of conditions. It takes one vector load for each pixel of the
window's width, which is not aligned, and a shuffle where the stride is not 1. The sums of a mean
are float32, whatever the type of the panels.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.costs.vectors import vector_cycles, vectors_of
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.schedules.emit.buffers import (
    Registers,
    converted,
    filled,
    masked,
    number,
    scratch,
    vector,
)
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.emit.sizes import size
from tvm_sparse.schedules.operators.pool_line import PoolLine, round_up
from tvm_sparse.schedules.stage import Stage, kernel
from tvm_sparse.sizes.pool2d import Pool2d

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

MOST_ACCUMULATORS = 8
"""Most vectors that are combined side by side, in registers."""
LONGEST_UNROLLED = 8
"""Largest width of a window that is unrolled; the pixels of a wider one become a loop."""
LOWEST = -math.inf
"""The maximum of no values."""


def max_pool2d(pool: Pool2d, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    """Build the maximum over windows; the padding never wins.

    Returns
    -------
    PrimFunc
        ``(x [batch * height, channels, lanes_in], y [batch * out_height, channels, lanes_out])``,
        of type `pool.dtype`.
    """
    return kernel(MaxPool2d(pool, cpu))


def avg_pool2d(pool: Pool2d, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    """Build the mean over windows.

    Returns
    -------
    PrimFunc
        A function with the parameters of `max_pool2d`'s.
    """
    return kernel(AvgPool2d(pool, cpu))


class _Pooling(Stage):
    """A pooling that combines values; a mean divides them by their number in the end.

    Parameters
    ----------
    pool : Pool2d
        The sizes.
    cpu : CpuProfile
        Gives the vector length.
    """

    neutral: float
    is_mean: bool

    def __init__(self, pool: Pool2d, cpu: CpuProfile) -> None:
        self.pool, self.cpu = pool, cpu
        self.line = PoolLine.of(pool, cpu)
        self.tensor = pool.output
        self.sums = DType.FLOAT32 if self.is_mean else pool.dtype
        self.panels = {"x": (pool.input, pool.rows_seen)}

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        return f"{self.name} {self.pool.window_key}"

    @abstractmethod
    def combine(self, a: Expr, b: Expr) -> Expr:
        """Combine two values of a window."""

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare the image."""
        self.x = panels("x")

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the line, and the places of a window's rows."""
        super().allocate(run_rows)
        self.memory = scratch(self.line.size, self.sums)
        self.places = scratch(self.pool.kernel[0], "int64")

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        pool, line = self.pool, self.line
        self._fill_padding()
        for row, _ in self.each_tile(first, end):
            tile = y.tile(image, row)
            window = self._rows_within(row, 0, size(self.x.tensor.rows))
            top = T.bind(row * pool.stride[0] - pool.padding[0])
            with T.serial(*window) as dy:
                place = self.x.at(image, top + dy * pool.dilation[0])
                T.buffer_store(self.places, place, [dy])
            share = self._row_share(row) if self.is_mean else None
            with T.serial(T.int64(0), T.int64(pool.channels // line.channels)) as block:
                channel = T.bind(block * line.channels)
                with T.serial(T.int64(0), T.int64(line.channels)) as c:
                    start = T.bind(c * line.pitch + line.front)
                    self._combine_rows(window, channel + c, start)
                with T.serial(T.int64(0), T.int64(line.channels)) as c:
                    start = T.bind(c * line.pitch + (line.front - pool.padding[1]))
                    self._combine_pixels(tile, channel + c, start, share)

    def work(self) -> int:
        """Return how many values it combines."""
        return self.tensor.elements * sum(self.pool.kernel)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        rows, width = self.pool.kernel
        loads = rows + width * self.pool.stride[1]
        return vector_cycles(vectors_of(self.tensor, self.cpu), loads, 2, rows + 2 * width)

    def _fill_padding(self) -> None:
        """Fill the padding beside the pixels of every channel."""
        line = self.line
        width = self.cpu.vector_width(self.pool.lanes_in, self.pool.dtype)
        end = line.front + round_up(self.pool.width, width)
        neutral = filled(self.neutral, width, self.sums)
        beside = [*range(0, line.front, width), *range(end, line.pitch, width)]
        with T.serial(T.int64(0), T.int64(line.channels)) as c:
            for lane in beside:
                T.buffer_store(self.memory, neutral, [vector(c * line.pitch + lane, width)])

    def _combine_rows(self, window: tuple[Expr, Expr], channel: Expr, place: Expr) -> None:
        """Combine the rows of a window that lie in the image, for all pixels of a channel."""
        pool = self.pool
        width = self.cpu.vector_width(pool.lanes_in, pool.dtype)
        neutral = filled(self.neutral, width, self.sums)
        for group, count in _groups(-(-pool.width // width), looped=True):
            acc = Registers(count, width, self.sums)
            for v in range(count):
                acc[v] = neutral
            with T.serial(*window) as dy:
                source = T.bind(self.places[dy])
                for v in range(count):
                    lane = vector((group + v) * width, width)
                    loaded = converted(self.x[source, channel, lane], self.sums)
                    acc[v] = self.combine(acc[v], loaded)
            for v in range(count):
                valid = pool.width - (group + v) * width if isinstance(group, int) else width
                value = masked(acc[v], valid, neutral)
                T.buffer_store(self.memory, value, [vector(place + (group + v) * width, width)])

    def _combine_pixels(self, y: Tile, channel: Expr, place: Expr, share: Expr | None) -> None:
        """Combine the pixels of a window's width, for all pixels of a channel of the output."""
        pool = self.pool
        width = self.cpu.vector_width(pool.lanes_out, pool.dtype)
        zeros = filled(0, width, pool.dtype)
        vectors = -(-pool.out_width // width)
        for group, count in _groups(vectors, looped=not self.is_mean or self._is_uniform()):
            acc = Registers(count, width, self.sums)
            for v in range(count):
                acc[v] = filled(self.neutral, width, self.sums)

            for dx in _width(pool.kernel[1]):
                start = place + (dx * pool.dilation[1] + group * (width * pool.stride[1]))
                for v in range(count):
                    first = start + v * (width * pool.stride[1])
                    values = _strided(self.memory, first, width, pool.stride[1])
                    acc[v] = self.combine(acc[v], values)
            for v in range(count):
                last = isinstance(group, int)
                value = acc[v]
                if share is not None:
                    value = value * self._share(share, (group + v) * width, width)
                valid = pool.out_width - (group + v) * width if last else width
                lane = vector((group + v) * width, width)
                y.store(masked(converted(value, pool.dtype), valid, zeros), 0, channel, lane)
        for lane in range(vectors * width, pool.lanes_out, width):
            y.store(zeros, 0, channel, vector(T.int64(lane), width))

    def _rows_within(self, row: Expr, low: int, high: Expr) -> tuple[Expr, Expr]:
        """Return the numbers of the window's first rows at or behind rows `low` and `high`."""
        pool = self.pool
        start = row * pool.stride[0] - pool.padding[0]

        def first_from(limit: Expr | int) -> Expr:
            steps = T.max(limit + (pool.dilation[0] - 1) - start, T.int64(0)) // pool.dilation[0]
            return T.bind(T.min(steps, T.int64(pool.kernel[0])))

        return first_from(low), first_from(high)

    def _row_share(self, row: Expr) -> Expr:
        """Return one divided by the rows of the window that a mean counts."""
        pool = self.pool
        top, _, bottom, _ = pool.padding if pool.count_padding else (0, 0, 0, 0)
        first, end = self._rows_within(row, -top, size(self.x.tensor.rows) + bottom)
        return T.bind(number(1) / T.Cast(self.sums, T.max(end - first, T.int64(1))))

    def _share(self, row_share: Expr, pixel: Expr | int, width: int) -> Expr:
        """Return one divided by the values that a mean counts, for a vector of pixels."""
        last = self.pool.out_width - 1
        first = pixel if isinstance(pixel, int) else 0  # in a loop all pixels are alike
        counts = [self.pool.pixels_counted(min(first + i, last)) for i in range(width)]
        shares = [number(1 / max(count, 1)) for count in counts]
        return T.Broadcast(row_share, width) * T.Shuffle(shares, list(range(width)))

    def _is_uniform(self) -> bool:
        """Whether all pixels of the output are means over equally many pixels."""
        return len({self.pool.pixels_counted(i) for i in range(self.pool.out_width)}) == 1


class MaxPool2d(_Pooling):
    """The maximum over windows; its parameters are those of `max_pool2d`."""

    name, neutral, is_mean = "max_pool2d", LOWEST, False

    def combine(self, a: Expr, b: Expr) -> Expr:
        """Return the larger value."""
        return T.max(a, b)


class AvgPool2d(_Pooling):
    """The mean over windows; its parameters are those of `avg_pool2d`."""

    name, neutral, is_mean = "avg_pool2d", 0.0, True

    def combine(self, a: Expr, b: Expr) -> Expr:
        """Return the sum."""
        return a + b


def _groups(vectors: int, looped: bool) -> Iterator[tuple[Expr | int, int]]:
    """Yield the first vector and the size of groups of vectors that fit the accumulators.

    All groups but the last, which may hold lanes that are no pixels, are a loop if `looped`.
    """
    whole = (vectors - 1) // MOST_ACCUMULATORS
    if looped and whole > 1:
        with T.serial(T.int64(0), T.int64(whole)) as group:
            yield group * MOST_ACCUMULATORS, MOST_ACCUMULATORS
    else:
        for group in range(whole):
            yield group * MOST_ACCUMULATORS, MOST_ACCUMULATORS
    yield whole * MOST_ACCUMULATORS, vectors - whole * MOST_ACCUMULATORS


def _width(count: int) -> Iterator[Expr | int]:
    """Yield the numbers of the pixels of a window's width."""
    if count > LONGEST_UNROLLED:
        with T.serial(T.int64(0), T.int64(count)) as i:
            yield i
    else:
        yield from range(count)


def _strided(memory: Expr, start: Expr, width: int, stride: int) -> Expr:
    """Load every `stride`-th value from `start` on."""
    loads = [memory[vector(start + i * width, width)] for i in range(stride)]
    return loads[0] if stride == 1 else T.Shuffle(loads, [i * stride for i in range(width)])

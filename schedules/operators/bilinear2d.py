"""Bilinear enlargement of image panels.

An output row is made in two passes. First, two input rows are mixed, by whole vectors, into a line
in L1. Then every output vector mixes two permutations of the line, whose patterns and weights are
constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.costs.vectors import vector_cycles, vectors_of
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.schedules.emit.buffers import converted, number, scratch, vector
from tvm_sparse.schedules.emit.panel_memory import Panels
from tvm_sparse.schedules.emit.sizes import size
from tvm_sparse.schedules.stage import Stage, kernel
from tvm_sparse.sizes.resize2d import Resize2d

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


def bilinear2d(resize: Resize2d, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    """Build the enlargement.

    Returns
    -------
    PrimFunc
        ``(x [batch * height, channels, lanes_in], y [batch * out_height, channels, lanes_out])``,
        of type `resize.dtype`.
    """
    return kernel(Bilinear2d(resize, cpu))


class Bilinear2d(Stage):
    """The enlargement.

    Parameters
    ----------
    resize : Resize2d
        The sizes.
    cpu : CpuProfile
        Gives the vector length.
    """

    name = "bilinear2d"

    def __init__(self, resize: Resize2d, cpu: CpuProfile) -> None:
        self.resize, self.cpu = resize, cpu
        self.tensor = resize.output
        self.panels = {"x": (resize.input, resize.rows_seen)}
        self.width_in = cpu.vector_width(resize.lanes_in, resize.dtype)
        self.width_out = cpu.vector_width(resize.lanes_out, resize.dtype)
        self.pitch = -(-resize.width // self.width_in) * self.width_in
        channels = resize.channels
        most = max(cpu.l1_bytes // (2 * resize.dtype.bytes * self.pitch), 1)
        self.block = next(c for c in range(min(most, channels), 0, -1) if channels % c == 0)

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare the images."""
        self.x = panels("x")

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the line; the loads of the last channel may reach beyond its end."""
        super().allocate(run_rows)
        self.memory = scratch(self.block * self.pitch + self.width_out, self.resize.dtype)

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        resize, memory, width, out = self.resize, self.memory, self.width_in, self.width_out
        for row, _ in self.each_tile(first, end):
            tile = y.tile(image, row)
            *between, share = _rows(resize, row, size(self.x.tensor.rows))
            upper, lower = (self.x.tile(image, i) for i in between)
            with T.serial(T.int64(0), T.int64(resize.channels // self.block)) as block:
                channel = T.bind(block * self.block)
                with T.serial(T.int64(0), T.int64(self.block)) as c:
                    for lane in range(0, self.pitch, width):
                        place = vector(T.int64(lane), width)
                        above = T.bind(upper[0, channel + c, place])
                        below = lower[0, channel + c, place]
                        mixed = above + (below - above) * T.Broadcast(share, width)
                        T.buffer_store(memory, mixed, [vector(c * self.pitch + lane, width)])
                with T.serial(T.int64(0), T.int64(self.block)) as c:
                    for lane in range(0, resize.lanes_out, out):
                        mixed = _mix_pixels(resize, memory, c * self.pitch, lane, out)
                        tile.store(mixed, 0, channel + c, vector(T.int64(lane), out))

    def work(self) -> int:
        """Return how many values it computes."""
        return self.tensor.elements

    def cycles(self) -> float:
        """Return the compute cycles of all rows, from the nearest cache, summed over cores."""
        rows = vectors_of(self.tensor, self.cpu) * self.resize.width // self.resize.out_width
        pixels = vectors_of(self.tensor, self.cpu)
        shuffles = 2
        return vector_cycles(rows, 2, 1, 2) + vector_cycles(pixels, 2 + shuffles, 1, 2)


def _rows(resize: Resize2d, row: Expr, height: Expr) -> tuple[Expr, Expr, Expr]:
    """Return the two input rows that an output row lies between, and the second one's share."""
    scale, shift = resize.line(0)
    source = T.bind(T.Cast(ACTIVATIONS, row) * number(scale) + number(shift))
    floor = T.bind(T.floor(source))
    last = height - 1
    upper = T.bind(T.Cast("int64", floor))
    rows = [T.bind(T.max(T.min(r, last), T.int64(0))) for r in (upper, upper + 1)]
    return rows[0], rows[1], T.bind(converted(source - floor, resize.dtype))


def _mix_pixels(resize: Resize2d, memory: Expr, start: Expr, lane: int, width: int) -> Expr:
    """Return a vector of the output; lanes beyond the last pixel repeat it."""
    scale, shift = resize.line(1)
    sources = [scale * min(lane + i, resize.out_width - 1) + shift for i in range(width)]
    shares = [number(source - math.floor(source), resize.dtype) for source in sources]
    left, right = (
        _permuted(
            memory,
            start,
            [min(max(math.floor(source) + step, 0), resize.width - 1) for source in sources],
        )
        for step in (0, 1)
    )
    return left + (right - left) * T.Shuffle(shares, list(range(width)))


def _permuted(memory: Expr, start: Expr, pixels: list[int]) -> Expr:
    """Load pixels of a channel, which are in ascending order and within reach of one vector."""
    width = len(pixels)
    loaded = memory[vector(start + pixels[0], width)]
    return T.bind(T.Shuffle([loaded], [pixel - pixels[0] for pixel in pixels]))

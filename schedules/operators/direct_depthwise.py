"""Depthwise convolution that reads the rows of the images in place.

The loops::

    for image, block of output rows, block of channels in parallel:
        for tile of the output rows:
            for channel:
                for piece of the lanes:      # rows x V vectors
                    rows x V accumulators = bias
                    for input row of the tile:
                        V loads, or zeros if the row lies outside of the image
                        for kernel position in the row:
                            shift the vectors in registers, zeros beside the image
                            multiply-adds for all output rows that see them
                    y = accumulators, after residual and activation

A shift takes one instruction. To gather the rows into a window takes a load and a store, and the
loads from the window cross cache lines.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.schedules.emit.buffers import Registers, filled, flat, number, vector
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.gather_window import select_pixels
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.emit.row_blocks import visit_blocks
from tvm_sparse.schedules.emit.sizes import size
from tvm_sparse.schedules.operators.depthwise_conv2d import DepthwiseConv2d
from tvm_sparse.schedules.stage import Stage, kernel
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.tilings.depthwise_conv2d import DepthwiseConv2dTiling, reads_in_place

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


def depthwise_conv2d(problem: Conv2d, epilogue: Epilogue, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    """Build the kernel of a depthwise convolution.

    Parameters
    ----------
    problem, epilogue, cpu
        As `DepthwiseConv2d`.

    Returns
    -------
    PrimFunc
        ``(x [N * H, C, lanes_in], weight [C, 1, kh, kw], [bias [C]],
        [residual [N * Ho, C, lanes_out]], y [N * Ho, C, lanes_out])``, all of the problem's
        type.
    """
    return kernel(depthwise_stage(problem, epilogue, cpu))


def depthwise_stage(
    problem: Conv2d,
    epilogue: Epilogue,
    cpu: CpuProfile,
    tiling: DepthwiseConv2dTiling | None = None,
    *,
    reads_image: bool = False,
    writes_image: bool = False,
) -> DepthwiseConv2d:
    """Return the stage of a depthwise convolution; parameters as of `DepthwiseConv2d`."""
    stage = DirectDepthwiseConv2d if reads_in_place(problem, cpu) else DepthwiseConv2d
    return stage(problem, epilogue, cpu, tiling, reads_image=reads_image, writes_image=writes_image)


class DirectDepthwiseConv2d(DepthwiseConv2d):
    """A depthwise convolution without a window; parameters as of `DepthwiseConv2d`."""

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the accumulators."""
        Stage.allocate(self, run_rows)
        tiling = self.tiling
        self.acc = Registers(tiling.rows * tiling.vectors, tiling.width, self.problem.dtype)

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        problem, count = self.problem, self.tiling.channels
        with self.each_chunk(chunk) as own_chunk:
            channel = T.bind(own_chunk * count)

            def visit_channels(count: int) -> None:
                for row, tile_rows in self.each_tile(first, end):
                    source = T.bind(row * problem.stride[0] - problem.padding[0])
                    self.rows = [
                        self._row_seen(image, source + i)
                        for i in range(self.window.rows(tile_rows))
                    ]
                    residual = self.residual_tile(image, row, tile_rows)
                    tile = y.tile(image, row, tile_rows)
                    with T.serial(T.int64(0), T.int64(count)) as c:
                        self._visit_tile(T.int64(0), channel + c, tile_rows, tile, residual)

            visit_blocks(own_chunk, problem.channels, count, visit_channels)

    def window_bytes(self) -> int:
        """Return that no row is gathered."""
        return 0

    def _row_seen(self, image: Expr, row: Expr) -> tuple[Expr, Tile]:
        """Return whether the image has a row, and the row, or the nearest one that it has."""
        last = size(self.x.tensor.rows) - 1
        inside = T.bind(T.And(row >= 0, row <= last))
        return inside, self.x.tile(image, T.max(T.min(row, last), T.int64(0)))

    def _multiply(self, base: Expr, channel: Expr, rows: int, vectors: int) -> None:
        """Multiply and add for the `vectors` vectors after lane `base` of the rows of a tile."""
        problem, width, dtype = self.problem, self.tiling.width, self.problem.dtype
        first = int(base) // width
        (kh, kw), stride, dilation = problem.kernel, problem.stride, problem.dilation
        weights = flat(self.weight[channel, 0, 0, 0], kh * kw, dtype)
        zero = filled(0, width, dtype)
        for i in range(rows * vectors):
            start = number(0, dtype) if self.bias is None else self.bias[channel]
            self.acc[i] = T.Broadcast(start, width)
        for seen, (inside, row) in enumerate(self.rows):
            users = [
                (i, (seen - i * stride[0]) // dilation[0])
                for i in range(rows)
                if (seen - i * stride[0]) % dilation[0] == 0
                and 0 <= (seen - i * stride[0]) // dilation[0] < kh
            ]
            if not users:
                continue
            loaded: dict[int, Expr] = {}

            def load(
                source: int,
                row: Tile = row,
                inside: Expr = inside,
                loaded: dict[int, Expr] = loaded,
            ) -> Expr:
                if source not in loaded:
                    value = row[0, channel, vector(T.int64(source * width), width)]
                    loaded[source] = T.bind(T.Select(inside, value, zero))
                return loaded[source]

            for dx in range(kw):
                for v in range(vectors):
                    pixel = (first + v) * width * stride[1] + dx * dilation[1] - problem.padding[1]
                    pixels = [pixel + lane * stride[1] for lane in range(width)]
                    value = T.bind(select_pixels(pixels, problem.width, zero, load))
                    for i, dy in users:
                        at = i * vectors + v
                        factor = T.Broadcast(weights[dy * kw + dx], width)
                        self.acc[at] = self.acc[at] + factor * value

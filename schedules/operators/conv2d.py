"""Dense convolution on image panels.

The loops::

    for image, block of output rows, chunk of output channels in parallel:
        gather the input rows, padded with zeros, into a window that stays in L2
        for block of NB output channels:     # its weights are read by all tiles
            for tile of the output rows:
                for piece of the lanes:      # rows x V vectors
                    NB x rows x V accumulators = 0
                    for input channel, kernel row, kernel position in the row:
                        rows x V loads from the window, NB weights, all multiply-adds
                    y = accumulators, after bias, residual and activation

In float16, the accumulators hold the sums of some input channels, which are added up in memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import longest_sum
from tvm_sparse.schedules.emit.buffers import (
    Registers,
    filled,
    scratch,
    vector,
)
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.gather_window import gather_window
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.operators.dense_conv_layer import DenseConvStage
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.conv2d import Conv2d, Window
from tvm_sparse.tilings.conv2d import CONV2D_FAMILY, Conv2dTiling
from tvm_sparse.tilings.layer import Layer

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


def conv2d(
    problem: Conv2d, epilogue: Epilogue, cpu: CpuProfile, tiling: Conv2dTiling | None = None
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a dense convolution.

    Parameters
    ----------
    problem, epilogue, cpu, tiling
        As `DenseConv2d`.

    Returns
    -------
    PrimFunc
        ``(x [N * H, C, lanes_in], weight [blocks, C / groups, kh, kw, NB], [bias [Co]],
        [residual [N * Ho, Co, lanes_out]], y [N * Ho, Co, lanes_out])``, all of the problem's
        type, the weight from `tvm_sparse.formats.dense.pack_conv2d`.
    """
    return kernel(DenseConv2d(problem, epilogue, cpu, tiling))


class DenseConv2d(DenseConvStage):
    """A dense convolution.

    Parameters
    ----------
    problem : Conv2d
        The convolution, of any number of groups.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the vector length and the register tile.
    tiling : Conv2dTiling, optional
        A tiling to use in place of the default; its `channels` must be those of the packed weight.
    reads_image, writes_image : bool
        Whether input and output are images instead of panels.
    """

    name = "conv2d"

    def __init__(
        self,
        problem: Conv2d,
        epilogue: Epilogue,
        cpu: CpuProfile,
        tiling: Conv2dTiling | None = None,
        *,
        reads_image: bool = False,
        writes_image: bool = False,
    ) -> None:
        tiling = tiling or CONV2D_FAMILY.default(Layer(problem.planned), cpu)
        images = {"reads_image": reads_image, "writes_image": writes_image}
        super().__init__(problem, epilogue, cpu, tiling.channels, tiling.width, **images)
        problem, self.tiling = self.problem, tiling
        self.window = Window(problem, tiling.width, problem.channels)
        self.tiles = Tiles(tiling.rows)
        self.row_block, self.chunks = tiling.row_block, tiling.chunks
        taps, longest = math.prod(problem.kernel), longest_sum(problem.dtype)
        parts = min(-(-self.group_inputs * taps // longest), self.group_inputs)
        self.depth = -(-self.group_inputs // parts)

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the window and the accumulators."""
        super().allocate(run_rows)
        tiling, dtype = self.tiling, self.problem.dtype
        self.memory = scratch(self.window.size(self.most_rows), dtype)
        count = tiling.channels * tiling.rows * tiling.vectors
        self.acc = Registers(count, tiling.width, dtype)
        if self.depth < self.group_inputs:
            self.sums = scratch(count * tiling.width, dtype)

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        window = self.window
        source, rows, most_rows = self.rows_seen(first, end)
        places = (source, rows, most_rows, T.int64(0), self.problem.channels)
        gather_window(self.x, self.memory, window, image, *places)
        chunk_blocks = -(-self.blocks // self.chunks)
        with self.each_chunk(chunk) as own_chunk:
            first_block = T.bind(own_chunk * chunk_blocks)
            mine = T.bind(T.min(T.int64(chunk_blocks), self.blocks - first_block))
            with T.serial(T.int64(0), mine) as b:
                block = T.bind(first_block + b)
                for row, count in self.each_tile(first, end):
                    residual = self.residual_tile(image, row, count)
                    base = T.bind((row - first) * window.out_row_pitch)
                    out = y.tile(image, row, count)
                    self._visit_tile(base, block, count, out, residual)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        product = CONV2D_FAMILY.cycles(Layer(self.problem), self.tiling, self.cpu)
        return product + self.epilogue.cycles(self.tensor, self.cpu)

    def window_bytes(self) -> int:
        """Return the bytes that a run gathers its inputs into, for each of its rows."""
        return self.problem.dtype.bytes * self.window.out_row_pitch

    def _visit_tile(
        self, base: Expr, block: Expr, rows: int, y: Tile, residual: Tile | None
    ) -> None:
        tiling, vectors = self.tiling, self.window.vectors
        pieces = -(-vectors // tiling.vectors)
        for piece in range(pieces):
            first, end = (vectors * p // pieces for p in (piece, piece + 1))
            tile = [(i, v * tiling.width) for i in range(rows) for v in range(first, end)]
            self._sum(base, block, tile)
            for k in range(tiling.channels):
                if k < self.group_outputs - (self.group_blocks - 1) * tiling.channels:
                    self._store(k, block, tile, y, residual)
                else:  # the last block of a group lacks this channel
                    with T.If(block % self.group_blocks < self.group_blocks - 1), T.Then():
                        self._store(k, block, tile, y, residual)

    def _sum(self, base: Expr, block: Expr, tile: list[tuple[int, int]]) -> None:
        """Leave the products of all (row, lane) vectors of a tile in the accumulators."""
        inputs, depth, width = self.group_inputs, self.depth, self.tiling.width
        if depth == inputs:
            self._multiply(base, block, tile, T.int64(0), T.int64(inputs))
            return
        places = [
            vector(T.int64(i * width), width) for i in range(self.tiling.channels * len(tile))
        ]
        for place in places:
            T.buffer_store(self.sums, filled(0, width, self.problem.dtype), [place])
        with T.serial(T.int64(0), T.int64(-(-inputs // depth))) as part:
            low = T.bind(part * depth)
            self._multiply(base, block, tile, low, T.bind(T.min(low + depth, T.int64(inputs))))
            for i, place in enumerate(places):
                T.buffer_store(self.sums, self.sums[place] + self.acc[i], [place])
        for i, place in enumerate(places):
            self.acc[i] = self.sums[place]

    def _multiply(
        self, base: Expr, block: Expr, tile: list[tuple[int, int]], low: Expr, high: Expr
    ) -> None:
        """Multiply and add input channels ``[low, high)`` for all (row, lane) vectors of a tile."""
        problem, window, tiling = self.problem, self.window, self.tiling
        kh, kw = problem.kernel
        weights, inputs = self.weights_of(block), self.first_input(block) * window.channel_pitch
        # Offsets count from `lead` floats before the rows, see `Window.offset`.
        base = T.bind(base + inputs + (window.front - window.lead))
        for i in range(tiling.channels * len(tile)):
            self.acc[i] = filled(0, tiling.width, problem.dtype)
        with T.serial(low, high) as c, T.serial(T.int64(0), T.int64(kh)) as dy:
            start = base + c * window.channel_pitch
            start = T.bind(start + dy * (problem.dilation[0] * window.row_pitch))
            for dx in range(kw):
                places = [
                    i * window.out_row_pitch + lane + window.offset(0, 0, dx) for i, lane in tile
                ]
                sources = [self.memory[vector(start + p, tiling.width)] for p in places]
                self.multiply_tap(weights, c, dy, dx, sources)

    def _store(
        self, k: int, block: Expr, tile: list[tuple[int, int]], y: Tile, residual: Tile | None
    ) -> None:
        width, vectors = self.tiling.width, self.window.vectors
        channel = self.first_output(block) + k
        for v, (i, lane) in enumerate(tile):
            value = self.acc[k * len(tile) + v]
            lanes = vector(T.int64(lane), width)
            if self.bias is not None:
                value = value + T.Broadcast(self.bias[channel], width)
            if residual is not None:
                value = value + residual[i, channel, lanes]
            y.store(self.epilogue.activate(T.bind(value)), i, channel, lanes)
        if tile[-1][1] == (vectors - 1) * width:
            # Nobody reads these lanes, but they must be finite.
            for lane in range(vectors * width, self.tensor.lanes, width):
                for i in sorted({i for i, _ in tile}):
                    zeros = filled(0, width, self.problem.dtype)
                    y.store(zeros, i, channel, vector(T.int64(lane), width))

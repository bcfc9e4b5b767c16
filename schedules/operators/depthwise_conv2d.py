"""Depthwise convolution on image panels: every channel has one kernel of its own.

`direct_depthwise` has the kernel for images whose rows need no window.

The loops::

    for image, block of output rows, block of channels in parallel:
        gather the input rows, padded with zeros, into a window that stays in L1
        for channel:
            for tile of the output rows:
                for piece of the lanes:      # rows x V vectors
                    rows x V accumulators = bias
                    for input row of the tile, kernel position in the row:
                        V loads from the window, each for all output rows that see them
                    y = accumulators, after residual and activation
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.schedules.emit.buffers import (
    Registers,
    argument,
    filled,
    flat,
    number,
    scratch,
    vector,
)
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.gather_window import gather_window
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.emit.row_blocks import visit_blocks
from tvm_sparse.schedules.operators.layer import ConvStage
from tvm_sparse.sizes.conv2d import Conv2d, Window
from tvm_sparse.tilings.depthwise_conv2d import DEPTHWISE_CONV2D_FAMILY, DepthwiseConv2dTiling
from tvm_sparse.tilings.layer import Layer

if TYPE_CHECKING:
    from tvm.ir import Expr


class DepthwiseConv2d(ConvStage):
    """A depthwise convolution.

    Parameters
    ----------
    problem : Conv2d
        The convolution; as many groups as input and as output channels.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the vector length and the register tile.
    tiling : DepthwiseConv2dTiling, optional
        A tiling to use in place of the default.
    reads_image, writes_image : bool
        Whether input and output are images instead of panels.
    """

    name = "depthwise_conv2d"

    def __init__(
        self,
        problem: Conv2d,
        epilogue: Epilogue,
        cpu: CpuProfile,
        tiling: DepthwiseConv2dTiling | None = None,
        *,
        reads_image: bool = False,
        writes_image: bool = False,
    ) -> None:
        if not problem.is_depthwise:
            raise ValueError(f"a depthwise convolution has one channel per group: {problem}")
        super().__init__(problem, epilogue, cpu, reads_image=reads_image, writes_image=writes_image)
        problem = self.problem
        self.tiling = tiling = tiling or DEPTHWISE_CONV2D_FAMILY.default(Layer(problem), cpu)
        self.window = Window(problem, tiling.width, tiling.channels)
        self.tiles, self.row_block = Tiles(tiling.rows), tiling.row_block
        self.chunks = -(-problem.channels // tiling.channels)

    def declare_weight(self) -> None:
        """Declare the weight and the bias."""
        problem, has_bias = self.problem, self.epilogue.bias
        channels, dtype = problem.channels, problem.dtype
        self.weight = argument("weight", channels, 1, *problem.kernel, dtype=dtype)
        self.bias = argument("bias", channels, dtype=dtype) if has_bias else None

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the window and the accumulators."""
        super().allocate(run_rows)
        tiling, dtype = self.tiling, self.problem.dtype
        self.memory = scratch(self.window.size(self.most_rows), dtype)
        self.acc = Registers(tiling.rows * tiling.vectors, tiling.width, dtype)

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        problem, window, size = self.problem, self.window, self.tiling.channels
        source, rows, most_rows = self.rows_seen(first, end)
        with self.each_chunk(chunk) as own_chunk:
            channel = T.bind(own_chunk * size)

            def visit_channels(count: int) -> None:
                gather_window(
                    self.x, self.memory, window, image, source, rows, most_rows, channel, count
                )
                with T.serial(T.int64(0), T.int64(count)) as c:
                    for row, tile_rows in self.each_tile(first, end):
                        residual = self.residual_tile(image, row, tile_rows)
                        # Offsets count from `lead` floats before the rows, see `Window.offset`.
                        base = (row - first) * window.out_row_pitch + c * window.channel_pitch
                        base = T.bind(base + (window.front - window.lead))
                        tile = y.tile(image, row, tile_rows)
                        self._visit_tile(base, channel + c, tile_rows, tile, residual)

            visit_blocks(own_chunk, problem.channels, size, visit_channels)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        layer = Layer(self.problem)
        product = DEPTHWISE_CONV2D_FAMILY.cycles(layer, self.tiling, self.cpu)
        return product + self.epilogue.cycles(self.tensor, self.cpu)

    def weight_bytes(self) -> int:
        """Return the bytes of the weight."""
        return self.problem.dtype.bytes * self.problem.channels * math.prod(self.problem.kernel)

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        return f"{self.name} of {self.problem.key} {self.epilogue.key}"

    def _visit_tile(
        self, base: Expr, channel: Expr, rows: int, y: Tile, residual: Tile | None
    ) -> None:
        tiling, vectors = self.tiling, self.window.vectors

        def visit(first: Expr, count: int) -> None:
            self._multiply(base + first * tiling.width, channel, rows, count)
            for i in range(rows):
                for v in range(count):
                    lanes = vector((first + v) * tiling.width, tiling.width)
                    value = self.acc[i * count + v]
                    if residual is not None:
                        value = value + residual[i, channel, lanes]
                    y.store(self.epilogue.activate(T.bind(value)), i, channel, lanes)

        pieces = -(-vectors // tiling.vectors)
        if self.cpu.vector_bits > 128:
            cuts = [vectors * p // pieces for p in range(pieces + 1)]
            for first, end in itertools.pairwise(cuts):
                visit(T.int64(first), end - first)
        else:  # if it were unrolled, LLVM would mix the pieces and spill weights
            whole, rest = divmod(vectors, tiling.vectors)
            with T.serial(T.int64(0), T.int64(whole)) as piece:
                visit(T.bind(piece * tiling.vectors), tiling.vectors)
            if rest:
                visit(T.int64(vectors - rest), rest)
        # Nobody reads these lanes, but they must be finite.
        for lane in range(vectors * tiling.width, self.tensor.lanes, tiling.width):
            for i in range(rows):
                zeros = filled(0, tiling.width, self.problem.dtype)
                y.store(zeros, i, channel, vector(T.int64(lane), tiling.width))

    def _multiply(self, base: Expr, channel: Expr, rows: int, vectors: int) -> None:
        """Multiply and add for the `vectors` vectors after `base` of the rows of a tile."""
        problem, window, width = self.problem, self.window, self.tiling.width
        (kh, kw), stride, dilation = problem.kernel, problem.stride[0], problem.dilation[0]
        weights = flat(self.weight[channel, 0, 0, 0], kh * kw, problem.dtype)
        for i in range(rows * vectors):
            start = number(0, problem.dtype) if self.bias is None else self.bias[channel]
            self.acc[i] = T.Broadcast(start, width)
        for seen in range(window.rows(rows)):
            users = [
                (i, (seen - i * stride) // dilation)
                for i in range(rows)
                if (seen - i * stride) % dilation == 0 and 0 <= (seen - i * stride) // dilation < kh
            ]
            for dx in range(kw if users else 0):
                for v in range(vectors):
                    place = seen * window.row_pitch + window.offset(0, 0, dx) + v * width
                    source = T.bind(self.memory[vector(base + place, width)])
                    for i, dy in users:
                        factor = T.Broadcast(weights[dy * kw + dx], width)
                        at = i * vectors + v
                        self.acc[at] = self.acc[at] + factor * source

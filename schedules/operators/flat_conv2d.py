"""Dense convolution whose vectors run over the pixels of all rows, without gaps between rows.

The loops::

    for image, block of output rows, chunk of output channels in parallel:
        gather the input rows one after another, with zeros between them, into a window
        for block of NB output channels:     # its weights are read by all pieces
            for piece of the block of rows:  # V vectors, of any rows
                NB x V accumulators = 0
                for input channel, kernel row, kernel position in the row:
                    V loads from the window, NB weights, all multiply-adds
                keep the sums
            for output channel, row:
                y = the sums of the row's pixels, after bias, residual and activation

Where the rows of panels have idle lanes, fewer vectors are multiplied than by a convolution whose
vectors begin anew in every row.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.schedules.emit.buffers import Registers, filled, opaque, scratch, vector
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.gather_window import gather_flat
from tvm_sparse.schedules.emit.panel_memory import Panels
from tvm_sparse.schedules.operators.dense_conv_layer import DenseConvStage
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.flat_window import FlatWindow
from tvm_sparse.tilings.flat_conv2d import FLAT_CONV2D_FAMILY, FlatConv2dTiling
from tvm_sparse.tilings.layer import Layer

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


def flat_conv2d(
    problem: Conv2d, epilogue: Epilogue, cpu: CpuProfile, tiling: FlatConv2dTiling | None = None
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a dense convolution without gaps between rows.

    Parameters
    ----------
    problem, epilogue, cpu, tiling
        As `FlatConv2d`.

    Returns
    -------
    PrimFunc
        ``(x [N * H, C, lanes_in], weight [blocks, C / groups, kh, kw, NB], [bias [Co]],
        [residual [N * Ho, Co, lanes_out]], y [N * Ho, Co, lanes_out])``, float32, the weight from
        `tvm_sparse.formats.dense.pack_conv2d`.
    """
    return kernel(FlatConv2d(problem, epilogue, cpu, tiling))


class FlatConv2d(DenseConvStage):
    """A dense convolution without gaps between rows.

    Parameters
    ----------
    problem : Conv2d
        The convolution, of any number of groups.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the vector length and the register tile.
    tiling : FlatConv2dTiling, optional
        A tiling to use in place of the default; its `channels` must be those of the packed weight.
    reads_image, writes_image : bool
        Whether input and output are images instead of panels.
    """

    name = "flat_conv2d"

    def __init__(
        self,
        problem: Conv2d,
        epilogue: Epilogue,
        cpu: CpuProfile,
        tiling: FlatConv2dTiling | None = None,
        *,
        reads_image: bool = False,
        writes_image: bool = False,
    ) -> None:
        tiling = tiling or FLAT_CONV2D_FAMILY.default(Layer(problem.planned), cpu)
        images = {"reads_image": reads_image, "writes_image": writes_image}
        super().__init__(problem, epilogue, cpu, tiling.channels, tiling.width, **images)
        self.tiling = tiling
        self.row_block, self.chunks = tiling.row_block, tiling.chunks

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the window, the sums and the accumulators."""
        super().allocate(run_rows)
        problem, width, vectors = self.problem, self.width, self.tiling.vectors
        self.flat = FlatWindow(problem, width, problem.channels, tile_rows=self.most_rows)
        most = -(-self.flat.vectors // vectors) * vectors
        self.held = self.flat.held(most)
        self.memory = scratch(self.held)
        # The lanes behind the last pixel of the last row are stored, too.
        last = (self.most_rows - 1) * self.flat.pitch + self.tensor.lanes
        self.sums_pitch = max(most * width, -(-last // width) * width)
        self.sums = scratch(self.block_channels * self.sums_pitch)
        self.acc = Registers(self.block_channels * vectors, width)

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        window, problem = self.flat, self.problem
        rows = opaque(end - first) if len(self.run_rows) > 1 else T.int64(self.most_rows)
        source = T.bind(first * problem.stride[0] - problem.padding[0])
        seen = window.rows(rows)
        gather_flat(self.x, self.memory, self.held, window, image, source, seen)
        self._clear_behind_sums()
        places = (rows - 1) * window.pitch + problem.out_width
        pieces = opaque(-(-places // (self.tiling.vectors * self.width)))
        chunk_blocks = -(-self.blocks // self.chunks)
        with self.each_chunk(chunk) as own_chunk:
            first_block = T.bind(own_chunk * chunk_blocks)
            mine = T.bind(T.min(T.int64(chunk_blocks), self.blocks - first_block))
            with T.serial(T.int64(0), mine) as b:
                block = T.bind(first_block + b)
                with T.serial(T.int64(0), pieces) as piece:
                    self._sum(block, T.bind(piece * (self.tiling.vectors * self.width)))
                self._store(block, rows, y, image, first)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        one_core = replace(self.cpu, cores=1)  # regions count the waiting themselves
        product = FLAT_CONV2D_FAMILY.cycles(Layer(self.problem), self.tiling, one_core)
        return product + self.epilogue.cycles(self.tensor, self.cpu)

    def run_cycles(self) -> float:
        """Return the cycles of what a run computes behind its last row: half a piece."""
        return FLAT_CONV2D_FAMILY.piece_cycles(self.problem, self.tiling, self.cpu) / 2

    def window_bytes(self) -> int:
        """Return the bytes that a run gathers its inputs into, for each of its rows."""
        window = FlatWindow(self.problem, self.width, self.problem.channels)
        rows = self.problem.stride[0] * len(window.origins) * window.pitch
        return self.problem.dtype.bytes * self.problem.channels * rows

    def _clear_behind_sums(self) -> None:
        """Store zeros into the sums that no piece computes: lanes that are stored must be finite.

        A run of fewer rows than the longest one has no other lanes behind its sums than those of
        runs before it.
        """
        computed = -(-self.flat.vectors // self.tiling.vectors) * self.tiling.vectors * self.width
        with T.serial(T.int64(0), T.int64(self.block_channels)) as k:
            first = computed // self.width if len(self.run_rows) == 1 else 0
            with T.serial(T.int64(first), T.int64(self.sums_pitch // self.width)) as i:
                place = vector(k * self.sums_pitch + i * self.width, self.width)
                T.buffer_store(self.sums, filled(0, self.width), [place])

    def _sum(self, block: Expr, place: Expr) -> None:
        """Keep the sums of the products of a block of channels, for V vectors from `place` on."""
        problem, window, width = self.problem, self.flat, self.width
        kh, kw = problem.kernel
        vectors, count = self.tiling.vectors, self.block_channels * self.tiling.vectors
        weights, inputs = self.weights_of(block), self.first_input(block) * window.channel_pitch
        # Offsets count from `lead` places before the rows, see `Window.offset`.
        base = T.bind(place + inputs + (window.front - window.lead))
        for i in range(count):
            self.acc[i] = filled(0, width)

        def row(c: Expr, start: Expr, dy: Expr | int, offset_dy: int) -> None:
            for dx in range(kw):
                taken = start + window.offset(0, offset_dy, dx)
                sources = [self.memory[vector(taken + v * width, width)] for v in range(vectors)]
                self.multiply_tap(weights, c, dy, dx, sources)

        with T.serial(T.int64(0), T.int64(self.group_inputs)) as c:
            start = T.bind(base + c * window.channel_pitch)
            if problem.stride[0] == 1:  # the rows of a kernel lie at equal distances
                with T.serial(T.int64(0), T.int64(kh)) as dy:
                    distance = problem.dilation[0] * window.pitch
                    row(c, T.bind(start + dy * distance), dy, 0)
            else:
                for dy in range(kh):
                    row(c, start, dy, dy)
        for i in range(count):
            k, v = divmod(i, vectors)
            kept = vector(place + (k * self.sums_pitch + v * width), width)
            T.buffer_store(self.sums, self.acc[i], [kept])

    def _store(self, block: Expr, rows: Expr, y: Panels, image: Expr, first: Expr) -> None:
        """Store the results of a block of channels.

        The rows need not lie one after another: a column's memory may end between any two.
        """
        lanes = self.tensor.lanes
        width = math.gcd(lanes, self.width)
        first_channel = T.bind(self.first_output(block))
        left = self.group_outputs - block % self.group_blocks * self.block_channels
        count = opaque(T.min(T.int64(self.block_channels), left))
        with T.serial(T.int64(0), rows) as row, T.serial(T.int64(0), count) as k:
            out = y.tile(image, T.bind(first + row))
            residual = self.residual_tile(image, T.bind(first + row), 1)
            start = T.bind(k * self.sums_pitch + row * self.flat.pitch)
            channel = T.bind(first_channel + k)
            with T.serial(T.int64(0), T.int64(lanes // width)) as i:
                value = self.sums[vector(start + i * width, width)]
                at = vector(i * width, width)
                if self.bias is not None:
                    value = value + T.Broadcast(self.bias[channel], width)
                if residual is not None:
                    value = value + residual[0, channel, at]
                out.store(self.epilogue.activate(T.bind(value)), 0, channel, at)

"""Sparse convolution on images whose rows are shorter than a vector, which then spans several rows.

The loops::

    for image, tile of output rows, chunk of output channels in parallel:
        for k_block:                     # input channels
            gather the input rows of a channel side by side, into a window that stays in L1
            for piece of the tile:       # V vectors, each of several rows
                for group:               # R output channels
                    R x V accumulators = bias (first K block) or partial sums
                    for step:            # the R channels walk their own non-zeros side by side
                        R times: load offset and weight; V multiply-adds
                    partial sums, or in the last K block y = accumulators, after residual and
                    activation: the rows of a vector go to their panels

A linear layer on such panels is a convolution with a kernel of 1x1.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.joined import JoinedTiling, joined_layout, joined_window
from tvm_sparse.schedules.emit.buffers import Registers, scratch, vector
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.gather_window import gather_joined
from tvm_sparse.schedules.emit.joined_rows import JoinedRows, PartialSums
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.emit.row_blocks import peel_ends
from tvm_sparse.schedules.emit.sparse_walk import SparseGroup
from tvm_sparse.schedules.operators.sparse_conv_layer import SparseConvStage
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.tilings.joined_conv2d import JOINED_CONV2D_FAMILY

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


def joined_conv2d(
    problem: Conv2d, tiling: JoinedTiling, epilogue: Epilogue, cpu: CpuProfile
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a sparse convolution with joined rows.

    Parameters
    ----------
    problem, tiling, epilogue, cpu
        As `JoinedConv2d`.

    Returns
    -------
    PrimFunc
        ``(x [N * H, C, lanes_in], indptr, channels, offsets, values, [bias [Co]],
        [residual [N * Ho, Co, lanes_out]], y [N * Ho, Co, lanes_out])``, activations of the type
        of the problem, the weight's arrays as `PackedSparse` in a `joined_layout`.
    """
    return kernel(JoinedConv2d(problem, tiling, epilogue, cpu))


class JoinedConv2d(SparseConvStage):
    """A sparse convolution whose vectors span several rows.

    Parameters
    ----------
    problem : Conv2d
        The convolution, of one group; a vector holds at least two of its output rows.
    tiling : JoinedTiling
        The tiling that the weight was packed with, which also says how the work is cut.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the number of vector registers.
    density : float
        Non-zero fraction of the weight; only the costs depend on it.
    """

    name = "joined_conv2d"
    family = JOINED_CONV2D_FAMILY

    def __init__(
        self,
        problem: Conv2d,
        tiling: JoinedTiling,
        epilogue: Epilogue,
        cpu: CpuProfile,
        density: float = 1.0,
    ) -> None:
        super().__init__(problem, epilogue, cpu, reads_image=False, writes_image=False)
        problem, self.tiling, self.density = self.problem, tiling, density
        self.layout = joined_layout(problem, tiling)
        self.window = self.joined = joined_window(problem, tiling)
        self.tiles = Tiles(tiling.rows)
        self.row_block, self.chunks = tiling.rows, tiling.chunks

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the window, the partial sums and the accumulators."""
        super().allocate(run_rows)
        tiling, dtype = self.tiling, self.problem.dtype
        self.memory = scratch(self.joined.held, dtype)
        self.acc = Registers(tiling.group * tiling.vectors, tiling.width, dtype)
        if self.layout.k_blocks > 1:
            size = self.problem.out_channels * self.joined.vectors * tiling.width
            self.sums = scratch(size, dtype)

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        problem, window = self.problem, self.joined
        for row, count in self.each_tile(first, end):
            source = T.bind(row * problem.stride[0] - problem.padding[0])
            tile = self._joined_rows(y.tile(image, row, count), count)
            residual = self.residual_tile(image, row, count)
            if residual is not None:
                residual = self._joined_rows(residual, count)
            for low, high in peel_ends(self.layout.k_blocks):
                with T.serial(T.int64(low), T.int64(high)) as k_block:
                    channel = k_block * window.channels
                    channels = min(window.channels, problem.channels - low * window.channels)
                    places = (image, source, count, channel, channels)
                    gather_joined(self.x, self.memory, window, *places)
                    ends = (low == 0, high == self.layout.k_blocks)
                    with self.each_chunk(chunk) as own_chunk:
                        self._visit_tile(own_chunk, k_block, count, tile, residual, ends)

    def window_bytes(self) -> int:
        """Return the bytes that a run gathers its inputs into, for each of its rows."""
        return self.problem.dtype.bytes * self.joined.held // self.tiling.rows

    def _joined_rows(self, tile: Tile, count: int) -> JoinedRows:
        pitch, width = self.joined.pitch, self.tiling.width
        return JoinedRows(tile, count, self.tensor.lanes, pitch, width, self.problem.dtype)

    def _visit_tile(
        self,
        chunk: Expr,
        k_block: Expr,
        count: int,
        y: JoinedRows,
        residual: JoinedRows | None,
        ends: tuple[bool, bool],
    ) -> None:
        """Compute a chunk of the channels of `count` rows."""
        window, tiling = self.joined, self.tiling
        vectors = window.vectors_of(count)
        out: Tile = y
        if self.layout.k_blocks > 1:
            results = y if ends[1] else None
            out = PartialSums(self.sums, window.vectors, tiling.width, results)
        pieces = -(-vectors // tiling.vectors)
        for low, high in itertools.pairwise(vectors * p // pieces for p in range(pieces + 1)):
            with T.serial(T.int64(0), T.int64(self.layout.chunk_groups)) as g:
                group = self.weight.group(chunk, k_block, g)
                self._multiply(group, range(low, high), out, residual, ends)

    def _multiply(
        self,
        group: SparseGroup,
        vectors: range,
        y: Tile,
        residual: Tile | None,
        ends: tuple[bool, bool],
    ) -> None:
        """Compute some vectors of the channels of a group."""
        window, width = self.joined, self.tiling.width

        def place(channel: Expr, v: int) -> tuple[int, Expr, Expr]:
            return vectors[v], channel, vector(T.int64(0), width)

        # Offsets count from `lead` elements before the rows, see `JoinedWindow.offset`.
        displacements = [window.front - window.lead + v * width for v in vectors]
        group.multiply(self.acc, self.memory, displacements, y, residual, place, *ends)

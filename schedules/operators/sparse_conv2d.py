"""Sparse convolution on image panels.

The loops::

    for image, run of output rows, chunk of output channels in parallel:
        for k_block:                         # input channels
            gather the input rows, padded with zeros, into a window that stays in L1
            for tile of the output rows:
                for group:                   # R output channels
                    for piece of the lanes:  # V vectors; all of them if the registers suffice
                        R x rows x V accumulators = bias (first K block) or partial sums in y
                        for step:            # the R channels walk their own non-zeros side by side
                            R times: load offset and weight; rows x V multiply-adds
                        y = accumulators, in the last K block after residual and activation

In the window every weight finds its inputs at one distance from the output's position, so a
non-zero is one offset. Gathering costs one pass over the input for all output channels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.sparse import SparseConvTiling, SparseLayout, sparse_window
from tvm_sparse.schedules.emit.buffers import Registers, filled, scratch, vector
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.gather_window import gather_window
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.emit.row_blocks import peel_ends
from tvm_sparse.schedules.emit.sparse_walk import SparseGroup
from tvm_sparse.schedules.operators.sparse_conv_layer import SparseConvStage
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.tilings.sparse_conv2d import SPARSE_CONV2D_FAMILY

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


def sparse_conv2d(
    problem: Conv2d, tiling: SparseConvTiling, epilogue: Epilogue, cpu: CpuProfile
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a sparse convolution.

    Parameters
    ----------
    problem, tiling, epilogue, cpu
        As `SparseConv2d`.

    Returns
    -------
    PrimFunc
        ``(x [N * H, C, lanes_in], indptr, channels, offsets, values, [bias [Co]],
        [residual [N * Ho, Co, lanes_out]], y [N * Ho, Co, lanes_out])``, of the problem's type, the
        weight's arrays as `PackedSparse.from_conv2d` makes them.
    """
    return kernel(SparseConv2d(problem, tiling, epilogue, cpu))


class SparseConv2d(SparseConvStage):
    """A sparse convolution.

    It does not depend on where the non-zeros are, nor on how many there are, so layers of one
    shape and tiling share it.

    Parameters
    ----------
    problem : Conv2d
        The convolution, of one group.
    tiling : SparseConvTiling
        The tiling that the weight was packed with, which also says how the work is cut.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the number of vector registers.
    density : float
        Non-zero fraction of the weight; only the costs depend on it.
    reads_image, writes_image : bool
        Whether input and output are images instead of panels.
    """

    name = "sparse_conv2d"
    family = SPARSE_CONV2D_FAMILY

    def __init__(
        self,
        problem: Conv2d,
        tiling: SparseConvTiling,
        epilogue: Epilogue,
        cpu: CpuProfile,
        density: float = 1.0,
        *,
        reads_image: bool = False,
        writes_image: bool = False,
    ) -> None:
        super().__init__(problem, epilogue, cpu, reads_image=reads_image, writes_image=writes_image)
        problem, self.tiling, self.density = self.problem, tiling, density
        self.layout = SparseLayout.conv2d(problem, tiling)
        self.window = sparse_window(problem, tiling)
        self.vectors = min(tiling.vectors, self.window.vectors)
        self.tiles = Tiles(tiling.rows)
        self.row_block, self.chunks = tiling.row_block, tiling.chunks

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the window and the accumulators."""
        super().allocate(run_rows)
        dtype = self.problem.dtype
        self.memory = scratch(self.window.size(self.most_rows), dtype)
        count = self.tiling.group * self.tiling.rows * self.vectors
        self.acc = Registers(count, self.tiling.width, dtype)

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        problem, window = self.problem, self.window
        source, rows, most_rows = self.rows_seen(first, end)
        for low, high in peel_ends(self.layout.k_blocks):
            with T.serial(T.int64(low), T.int64(high)) as k_block:
                channel = k_block * window.channels
                count = min(window.channels, problem.channels - low * window.channels)
                gather_window(
                    self.x, self.memory, window, image, source, rows, most_rows, channel, count
                )
                ends = (low == 0, high == self.layout.k_blocks)
                with self.each_chunk(chunk) as own_chunk:
                    for row, tile_rows in self.each_tile(first, end):
                        tile = y.tile(image, row, tile_rows)
                        residual = self.residual_tile(image, row, tile_rows)
                        base = T.bind((row - first) * window.out_row_pitch)
                        for lane, vectors in self._pieces():
                            with T.serial(T.int64(0), T.int64(self.layout.chunk_groups)) as g:
                                group = self.weight.group(own_chunk, k_block, g)
                                places = [(i, v) for i in range(tile_rows) for v in range(vectors)]
                                self._multiply(group, base, lane, places, tile, residual, ends)
                        if ends[1]:
                            self._store_zeros(tile, own_chunk, tile_rows)

    def window_bytes(self) -> int:
        """Return the bytes that a run gathers its inputs into, for each of its rows."""
        return self.problem.dtype.bytes * self.window.out_row_pitch

    def _pieces(self) -> Iterator[tuple[Expr, int]]:
        """Yield the first lane of every piece of a row, and how many vectors it has."""
        width = self.tiling.width
        whole, left = divmod(self.window.vectors, self.vectors)
        with T.serial(T.int64(0), T.int64(whole)) as piece:
            yield T.bind(piece * (self.vectors * width)), self.vectors
        if left:
            yield T.int64(whole * self.vectors * width), left

    def _multiply(
        self,
        group: SparseGroup,
        base: Expr,
        lane: Expr,
        places: Sequence[tuple[int, int]],
        y: Tile,
        residual: Tile | None,
        ends: tuple[bool, bool],
    ) -> None:
        """Compute the channels of a group, for the rows and vectors `places` from `lane` on."""
        window, width = self.window, self.tiling.width
        # Offsets count from `lead` floats before the rows, see `Window.offset`.
        start = T.bind(base + lane + (window.front - window.lead))

        def place(channel: Expr, t: int) -> tuple[Expr | int, Expr, Expr]:
            i, v = places[t]
            return i, channel, vector(lane + v * width, width)

        displacements = [start + (i * window.out_row_pitch + v * width) for i, v in places]
        group.multiply(self.acc, self.memory, displacements, y, residual, place, *ends)

    def _store_zeros(self, y: Tile, chunk: Expr, count: int) -> None:
        """Fill the lanes that no vector covers: nobody reads them, but they must be finite."""
        width, channels = self.tiling.width, self.layout.chunk_channels
        for lane in range(self.window.vectors * width, self.tensor.lanes, width):
            zeros = filled(0, width, self.problem.dtype)
            with T.serial(T.int64(0), T.int64(channels)) as c:
                for i in range(count):
                    y.store(zeros, i, chunk * channels + c, vector(T.int64(lane), width))

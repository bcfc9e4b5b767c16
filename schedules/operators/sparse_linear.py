"""Sparse linear layer on panels: ``y[r, n, :] = act(sum_k w[n, k] x[r, k, :] + ...)``.

The loops::

    for tile of rows, chunk in parallel: # some panels of lanes, a chunk of output channels
        for k_block:                     # its part of the panel stays in L1
            for group:                   # R output channels
                for piece of the lanes:  # V vectors; all of them if the registers suffice
                    R x rows x V accumulators = bias (first K block) or the partial sums in y
                    for step:            # the R channels walk their own non-zeros side by side
                        R times: load offset and weight; rows x V multiply-adds from the panels
                    y = accumulators, in the last K block after residual and activation

Rows are outermost, so that a thread works on the same rows in all layers of a network and finds
their activations in its own cache. This is worth more than reading only a share of the weights.

Several rows are computed together where the lanes of one row are too few to pay for loading a
weight. Threads then get equal runs of rows, if the rows divide, instead of equal runs of tiles; the
rest of a run joins its last tile.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.formats.density import density_bucket
from tvm_sparse.formats.sparse import OFFSET_UNIT, SparseLayout, SparseTiling
from tvm_sparse.schedules.emit.balance import each_piece
from tvm_sparse.schedules.emit.buffers import Registers, vector
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.emit.row_blocks import peel_ends
from tvm_sparse.schedules.emit.sparse_walk import SparseArguments, SparseGroup
from tvm_sparse.schedules.operators.layer import LayerStage
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.sizes.tensor import RowMap, Tensor
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_linear import SPARSE_LINEAR_FAMILY, parts_of

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


def sparse_linear(
    rows: int,
    lanes: int,
    n: int,
    k: int,
    tiling: SparseTiling,
    epilogue: Epilogue,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a sparse linear layer.

    Parameters
    ----------
    rows, lanes, k : int
        Rows, lanes and channels of the input.
    n, tiling, epilogue, cpu
        As `SparseLinear`.
    dtype : DType
        Type of the panels and of the weight.

    Returns
    -------
    PrimFunc
        ``(x [rows, K, lanes], indptr, channels, offsets, values, [bias [N]],
        [residual [rows, N, lanes]], y [rows, N, lanes])``, the weight's arrays as in
        `PackedSparse`.
    """
    return kernel(SparseLinear(Tensor(1, rows, k, lanes, dtype), n, tiling, epilogue, cpu))


class SparseLinear(LayerStage):
    """A sparse linear layer.

    Its code depends neither on the places of the non-zeros nor on their number, so that layers of
    one shape and tiling share it.

    Parameters
    ----------
    source : Tensor
        The input.
    n : int
        Output channels.
    tiling : SparseTiling
        The tiling that the weight was packed with.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the length and the number of vectors.
    density : float
        Non-zero fraction of the weight; only the costs depend on it.
    """

    name = "sparse_linear"

    def __init__(
        self,
        source: Tensor,
        n: int,
        tiling: SparseTiling,
        epilogue: Epilogue,
        cpu: CpuProfile,
        density: float = 1.0,
    ) -> None:
        images, rows, lanes, dtype = source.images, source.rows, source.lanes, source.dtype
        result = replace(source, channels=n)
        super().__init__(source, RowMap(), result, epilogue, cpu)
        self.tiling, self.density = tiling, density
        self.layout = SparseLayout.linear(n, source.channels, lanes, tiling)
        self.width = cpu.vector_width(lanes, dtype)
        self.vectors = lanes // self.width
        # Besides the accumulators, registers hold a weight and, on processors without memory
        # operands, an input.
        pieces = -(-self.vectors * tiling.rows * tiling.group // (cpu.vector_registers - 2))
        self.most_vectors = -(-self.vectors // pieces)
        # Larger activations come from the L3 cache, and non-zeros touch them in no order that the
        # processor could foresee, so that hints pay. Outputs and residuals are asked for only if
        # they cannot stay in L2, since a hint that is not needed costs time.
        self.asks_for_inputs = source.bytes > cpu.l2_bytes / 2
        self.asks_for_outputs = result.bytes > cpu.l2_bytes
        self.chunks = tiling.chunks
        self.row_block = tiling.rows
        shares = cpu.cores // math.gcd(cpu.cores, images)  # threads that share the rows of an image
        if tiling.rows > 1 and self.chunks == 1:
            if isinstance(rows, Extent):
                self.row_block = -(-rows // shares)
            elif rows % shares == 0:
                self.row_block = rows // shares
        if self.chunks == 1 and result.is_extended:
            self.parts = parts_of(self.layout, cpu.cores)
        most = (cpu.vector_registers - 2) // tiling.group if self.vectors == 1 else 1
        self.tiles = Tiles(tiling.rows, most)

    def declare_weight(self) -> None:
        """Declare the packed weight and the bias."""
        self.weight = SparseArguments(
            self.layout, OFFSET_UNIT, self.width, self.epilogue, self.tensor.dtype
        )

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the accumulators of a tile that has taken in the rest of a run."""
        super().allocate(run_rows)
        count = self.tiling.group * self.tiles.largest * self.most_vectors
        self.acc = Registers(count, self.width, self.tensor.dtype)

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        for row, count in self.each_tile(first, end):
            x, out = self.x.tile(image, row, count), y.tile(image, row, count)
            residual = self.residual_tile(image, row, count)
            with self.each_chunk(chunk) as own_chunk:
                self._visit_tile(own_chunk, count, x, out, residual)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        tensor, layout = self.tensor, self.layout
        rows = int(tensor.images * tensor.rows)
        problem = Linear(rows, tensor.lanes, layout.n, layout.k, tensor.dtype)
        layer, one_core = Layer(problem, self.density), replace(self.cpu, cores=1)
        product = SPARSE_LINEAR_FAMILY.cycles(layer, self.tiling, one_core)
        return product + self.epilogue.cycles(self.tensor, self.cpu)

    def weight_bytes(self) -> int:
        """Return the bytes of the packed weight."""
        return self.layout.bytes(self.density, self.tensor.dtype)

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        density = density_bucket(self.density)
        return f"{self.name} channels={self.source.channels} {density} {self.epilogue.key}"

    def _visit_tile(self, chunk: Expr, count: int, x: Tile, y: Tile, residual: Tile | None) -> None:
        layout = self.layout
        for low, high in peel_ends(layout.k_blocks):
            k_blocks = T.serial(T.int64(low), T.int64(high))
            with k_blocks as k_block, each_piece(layout.chunk_groups) as g:
                share = g, layout.chunk_groups
                following = range(self.tiles.rows, self.tiles.rows + count)
                if self.asks_for_inputs:
                    depth = layout.block_taps
                    x.prefetch(following, k_block * depth, depth, *share)
                if self.asks_for_outputs and low == 0:
                    channels = chunk * layout.chunk_channels, layout.chunk_channels
                    y.prefetch(following, *channels, *share)
                    if residual is not None:  # the last K block uses it
                        rows = following if layout.k_blocks == 1 else range(count)
                        residual.prefetch(rows, *channels, *share)
                group = self.weight.group(chunk, k_block, g)
                self._multiply(
                    group, k_block, count, x, y, residual, (low == 0, high == layout.k_blocks)
                )

    def _multiply(
        self,
        group: SparseGroup,
        k_block: Expr,
        rows: int,
        x: Tile,
        y: Tile,
        residual: Tile | None,
        ends: tuple[bool, bool],
    ) -> None:
        """Compute the channels of a group, for a tile of rows."""
        row_floats = self.source.channels * self.source.lanes
        for first_vector in range(0, self.vectors, self.most_vectors):
            lane = first_vector * self.width
            piece = min(self.most_vectors, self.vectors - first_vector)
            tile = [(i, v * self.width) for i in range(rows) for v in range(piece)]

            def place(
                channel: Expr, t: int, lane: int = lane, tile: list[tuple[int, int]] = tile
            ) -> tuple[Expr | int, Expr, Expr]:
                i, ahead = tile[t]
                return i, channel, vector(T.int64(lane + ahead), self.width)

            group.multiply(
                self.acc,
                x.flat(k_block * self.tiling.k_block, lane, row_floats),
                [x.ahead(i) + ahead for i, ahead in tile],
                y,
                residual,
                place,
                *ends,
            )

"""Dense linear layer on panels: ``y[r, n, :] = act(sum_k w[n, k] x[r, k, :] + ...)``.

The loops::

    for rows of a thread, block, row in parallel:  # a block has NB output channels
        for piece of the lanes:          # V vectors: at most two, perhaps of two rows
            NB x V accumulators = 0
            for k:                       # V vectors of the panel, NB weights
                NB x V multiply-adds
            y = accumulators, after bias, residual and activation

A thread keeps its rows from layer to layer, so that their activations are in its own cache. It
visits all of its rows while a block of weights is in the cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import line_elements
from tvm_sparse.schedules.emit.buffers import (
    Registers,
    argument,
    filled,
    flat,
    prefetch,
    vector,
)
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.operators.layer import LayerStage
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.sizes.tensor import RowMap, Tensor
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.linear import LINEAR_FAMILY, LinearTiling

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

PANEL_AHEAD = 16
"""Input channels by which a panel is prefetched ahead of its use; measured on a Xeon."""
WEIGHTS_AHEAD = 1024
"""Weights by which a weight is prefetched ahead of its use; measured on a Xeon."""


def linear(
    rows: int, lanes: int, n: int, k: int, epilogue: Epilogue, cpu: CpuProfile
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a dense linear layer.

    Parameters
    ----------
    rows, lanes, n, k, epilogue, cpu
        As `DenseLinear`.

    Returns
    -------
    PrimFunc
        ``(x [rows, K, lanes], weight [blocks, K, NB], [bias [N]], [residual [rows, N, lanes]],
        y [rows, N, lanes])``, all float32, the weight from
        `tvm_sparse.formats.dense.pack_linear`.
    """
    return kernel(DenseLinear(1, rows, lanes, n, k, epilogue, cpu))


class DenseLinear(LayerStage):
    """A dense linear layer.

    Parameters
    ----------
    images, rows, lanes : int
        Images or sequences, rows (panels) of each, and lanes of a row.
    n, k : int
        Output and input channels.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the vector length and the register tile.
    tiling : LinearTiling, optional
        A tiling to use in place of the default; its `channels` must be those of the packed weight.
    """

    name = "linear"

    def __init__(
        self,
        images: int,
        rows: int,
        lanes: int,
        n: int,
        k: int,
        epilogue: Epilogue,
        cpu: CpuProfile,
        tiling: LinearTiling | None = None,
    ) -> None:
        source, result = Tensor(images, rows, k, lanes), Tensor(images, rows, n, lanes)
        super().__init__(source, RowMap(), result, epilogue, cpu)
        self.width = cpu.vector_width(lanes, source.dtype)
        self.layer = Layer(Linear(images * rows, lanes, n, k))
        self.tiling = tiling or LINEAR_FAMILY.default(self.layer, cpu)
        self.vectors = lanes // self.width
        tile = 1 if self.vectors > 1 else min(self.tiling.vectors, rows)
        self.tiles = Tiles(tile)
        self.blocks = -(-n // self.tiling.channels)
        tiles = images * -(-rows // tile)
        if tiles % cpu.cores == 0:  # a thread visits all of its rows with a block of weights
            self.row_block, self.chunks = -(-rows // tile // cpu.cores) * tile, 1
        else:
            self.row_block, self.chunks = rows, self.blocks

    def declare_weight(self) -> None:
        """Declare the packed weight and the bias."""
        depth, has_bias = self.source.channels, self.epilogue.bias
        self.weight = argument("weight", self.blocks, depth, self.tiling.channels)
        self.bias = argument("bias", self.tensor.channels) if has_bias else None

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the accumulators."""
        super().allocate(run_rows)
        self.acc = Registers(self.tiling.channels * self.tiling.vectors, self.width)

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        with self.each_block(chunk) as block:
            for row, count in self.each_tile(first, end):
                residual = self.residual_tile(image, row, count)
                x, out = self.x.tile(image, row, count), y.tile(image, row, count)
                self._visit_tile(block, count, x, out, residual)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        product = LINEAR_FAMILY.cycles(self.layer, self.tiling, self.cpu)
        return product + self.epilogue.cycles(self.tensor, self.cpu)

    def weight_bytes(self) -> int:
        """Return the bytes of the weight."""
        return self.tensor.dtype.bytes * self.tensor.channels * self.source.channels

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        return f"{self.name} channels={self.source.channels} {self.epilogue.key}"

    def each_block(self, chunk: Expr | None) -> contextlib.AbstractContextManager[Expr]:
        """Open the loop over the blocks of weights, unless a chunk is one of them."""
        if self.chunks > 1:
            return self.each_chunk(chunk)
        return T.serial(T.int64(0), T.int64(self.blocks))

    def _visit_tile(self, block: Expr, rows: int, x: Tile, y: Tile, residual: Tile | None) -> None:
        channels, n = self.tiling.channels, self.tensor.channels
        for first in range(0, self.vectors, self.tiling.vectors):
            piece = range(first, min(first + self.tiling.vectors, self.vectors))
            tile = [(row, v * self.width) for row in range(rows) for v in piece]
            self._multiply(block, tile, x)
            for c in range(channels):
                if c < n - (self.blocks - 1) * channels:
                    self._store(c, block, tile, y, residual)
                else:  # the last block lacks this channel
                    with T.If(block < self.blocks - 1), T.Then():
                        self._store(c, block, tile, y, residual)

    def _multiply(self, block: Expr, tile: list[tuple[int, int]], x: Tile) -> None:
        """Multiply and add for all (row, lane) vectors of a tile."""
        channels, width = self.tiling.channels, self.width
        k, lanes = self.source.channels, self.source.lanes
        panel = x.flat(0, 0, self.tiles.rows * k * lanes)
        weights = flat(self.weight[block, 0, 0], k * channels)
        for i in range(channels * len(tile)):
            self.acc[i] = filled(0, width)
        with T.serial(T.int64(0), T.int64(k)) as k_index:
            starts = [k_index * lanes + (x.ahead(row) + lane) for row, lane in tile]
            for v, start in enumerate(starts):
                if v * width % line_elements(self.tensor.dtype) == 0:
                    prefetch(panel[start + PANEL_AHEAD * lanes])
            prefetch(weights[k_index * channels + WEIGHTS_AHEAD])
            sources = [T.bind(panel[vector(start, width)]) for start in starts]
            for c in range(channels):
                factor = T.bind(T.Broadcast(weights[k_index * channels + c], width))
                for v, source in enumerate(sources):
                    i = c * len(tile) + v
                    self.acc[i] = self.acc[i] + factor * source

    def _store(
        self, c: int, block: Expr, tile: list[tuple[int, int]], y: Tile, residual: Tile | None
    ) -> None:
        channel = block * self.tiling.channels + c
        for v, (row, lane) in enumerate(tile):
            value = self.acc[c * len(tile) + v]
            lanes = vector(T.int64(lane), self.width)
            if self.bias is not None:
                value = value + T.Broadcast(self.bias[channel], self.width)
            if residual is not None:
                value = value + residual[row, channel, lanes]
            y.store(self.epilogue.activate(T.bind(value)), row, channel, lanes)

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
import functools
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import line_elements
from tvm_sparse.dtypes import ACTIVATIONS, DType, longest_sum
from tvm_sparse.schedules.emit.balance import each_piece
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
from tvm_sparse.sizes.extent import Extent
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
    rows: int,
    lanes: int,
    n: int,
    k: int,
    epilogue: Epilogue,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a dense linear layer.

    Parameters
    ----------
    rows, lanes, k : int
        Rows, lanes and channels of the input.
    n, epilogue, cpu
        As `DenseLinear`.
    dtype : DType
        Type of the panels and of the weight.

    Returns
    -------
    PrimFunc
        ``(x [rows, K, lanes], weight [blocks, K, NB], [bias [N]], [residual [rows, N, lanes]],
        y [rows, N, lanes])``, the weight from `tvm_sparse.formats.dense.pack_linear`.
    """
    return kernel(DenseLinear(Tensor(1, rows, k, lanes, dtype), n, epilogue, cpu))


class DenseLinear(LayerStage):
    """A dense linear layer.

    Parameters
    ----------
    source : Tensor
        The input.
    n : int
        Output channels.
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
        source: Tensor,
        n: int,
        epilogue: Epilogue,
        cpu: CpuProfile,
        tiling: LinearTiling | None = None,
    ) -> None:
        images, rows, k, lanes = source.images, source.rows, source.channels, source.lanes
        super().__init__(source, RowMap(), replace(source, channels=n), epilogue, cpu)
        self.width = cpu.vector_width(lanes, source.dtype)
        self.layer = Layer(Linear(images * rows, lanes, n, k, source.dtype))
        self.tiling = tiling or LINEAR_FAMILY.default(self.layer, cpu)
        self.vectors = lanes // self.width
        is_sized = isinstance(rows, Extent)
        most = self.tiling.vectors if is_sized else min(self.tiling.vectors, rows)
        tile = 1 if self.vectors > 1 else most
        self.tiles = Tiles(tile)
        self.blocks = -(-n // self.tiling.channels)
        tiles = images * -(-rows // tile)
        if tiles % cpu.cores == 0 or (
            is_sized and tiles >= cpu.cores
        ):  # a thread visits all of its rows with a block of weights
            self.row_block, self.chunks = -(-rows // tile // cpu.cores) * tile, 1
        else:
            self.row_block, self.chunks = rows, self.blocks
        if self.chunks == 1 and is_sized:
            self.parts = min(cpu.cores, self.blocks)

    def declare_weight(self) -> None:
        """Declare the packed weight and the bias."""
        depth, has_bias = self.source.channels, self.epilogue.bias
        dtype = self.source.dtype
        self.weight = argument("weight", self.blocks, depth, self.tiling.channels, dtype=dtype)
        self.bias = argument("bias", self.tensor.channels, dtype=dtype) if has_bias else None

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the accumulators."""
        super().allocate(run_rows)
        count = self.tiling.channels * self.tiling.vectors
        self.acc = Registers(count, self.width, self.tensor.dtype)

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
        return each_piece(self.blocks)

    def _visit_tile(self, block: Expr, rows: int, x: Tile, y: Tile, residual: Tile | None) -> None:
        channels, n = self.tiling.channels, self.tensor.channels
        for first in range(0, self.vectors, self.tiling.vectors):
            piece = range(first, min(first + self.tiling.vectors, self.vectors))
            tile = [(row, v * self.width) for row in range(rows) for v in piece]
            for low, high in self._sums:
                self._multiply(block, tile, x, low, high - low)
                for c in range(channels):
                    store = functools.partial(self._store, c, block, tile, y, residual, low, high)
                    if c < n - (self.blocks - 1) * channels:
                        store()
                    else:  # the last block lacks this channel
                        with T.If(block < self.blocks - 1), T.Then():
                            store()

    @property
    def _sums(self) -> list[tuple[int, int]]:
        """The input channels whose products are summed up from zero, first and end."""
        k, longest = self.source.channels, longest_sum(self.source.dtype)
        count = -(-k // longest)
        return [(k * i // count, k * (i + 1) // count) for i in range(count)]

    def _multiply(
        self, block: Expr, tile: list[tuple[int, int]], x: Tile, low: int, depth: int
    ) -> None:
        """Multiply and add `depth` channels from `low` on for all (row, lane) vectors of a tile."""
        channels, width, dtype = self.tiling.channels, self.width, self.source.dtype
        k, lanes = self.source.channels, self.source.lanes
        panel = x.flat(low, 0, self.tiles.rows * k * lanes)
        weights = flat(self.weight[block, low, 0], depth * channels, dtype)
        for i in range(channels * len(tile)):
            self.acc[i] = filled(0, width, dtype)
        with T.serial(T.int64(0), T.int64(depth)) as k_index:
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
        self,
        c: int,
        block: Expr,
        tile: list[tuple[int, int]],
        y: Tile,
        residual: Tile | None,
        low: int,
        high: int,
    ) -> None:
        """Store the sums of a channel, and behind the last input channel the whole result."""
        channel = block * self.tiling.channels + c
        for v, (row, lane) in enumerate(tile):
            value = self.acc[c * len(tile) + v]
            lanes = vector(T.int64(lane), self.width)
            if low > 0:
                value = value + y[row, channel, lanes]
            if high < self.source.channels:
                y.store(value, row, channel, lanes)
                continue
            if self.bias is not None:
                value = value + T.Broadcast(self.bias[channel], self.width)
            if residual is not None:
                value = value + residual[row, channel, lanes]
            y.store(self.epilogue.activate(T.bind(value)), row, channel, lanes)

"""Dense linear layer on panels: ``y[r, n, :] = act(sum_k w[n, k] x[r, k, :] + ...)``.

The loops::

    for rows of a thread, block, row in parallel:  # NB output channels, a panel of lanes
        for piece of the lanes:          # at most two vectors, perhaps of two rows
            NB x V accumulators = 0
            for k:                       # V vectors of the panel, NB weights
                NB x V multiply-adds
            y = accumulators, after bias, residual and activation

A thread keeps its rows from layer to layer, and with them their activations in its own cache. It
visits all of its rows while a block of weights is in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.cost_model import dense_tiling
from tvm_sparse.schedules.buffers import (
    FLOATS_PER_CACHE_LINE,
    Registers,
    argument,
    flat,
    prefetch,
    vector,
)
from tvm_sparse.schedules.epilogue import Epilogue
from tvm_sparse.schedules.row_blocks import row_end, visit_blocks
from tvm_sparse.targets import CpuProfile

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

PANEL_AHEAD = 16
"""Input channels by which a panel is asked for ahead of its use."""
WEIGHTS_AHEAD = 1024
"""Weights by which they are asked for ahead of their use; with both hints the kernel reaches 85 %
of the FMA peak on layers of 768 x 768, without them 60 %."""


def pack_linear(weight: NDArray[np.float32], cpu: CpuProfile) -> NDArray[np.float32]:
    """Reorder a weight ``[N, K]`` into ``[blocks, K, NB]``, as `linear` reads it.

    The last block is filled up with zeros.
    """
    n, k = weight.shape
    channels = dense_tiling(n, cpu).channels
    padded = np.pad(weight, ((0, -n % channels), (0, 0)))
    return np.ascontiguousarray(padded.reshape(-1, channels, k).transpose(0, 2, 1))


def linear(
    rows: int, lanes: int, n: int, k: int, epilogue: Epilogue, cpu: CpuProfile
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a dense linear layer.

    Parameters
    ----------
    rows, lanes : int
        Rows (panels) of the activations, and lanes of a row.
    n, k : int
        Output and input channels.
    epilogue : Epilogue
        Which of bias, residual and activation follow the product.
    cpu : CpuProfile
        Gives the vector length and the register tile.

    Returns
    -------
    PrimFunc
        ``(x [rows, K, lanes], weight [blocks, K, NB], [bias [N]], [residual [rows, N, lanes]],
        y [rows, N, lanes])``, all float32, the weight from `pack_linear`.
    """
    width = cpu.vector_width(lanes)
    tiling = dense_tiling(n, cpu)
    channels, vectors = tiling.channels, lanes // width
    tile_rows = 1 if vectors > 1 else min(tiling.vectors, rows)
    tiles = -(-rows // tile_rows)
    blocks = -(-n // channels)
    tiles_per_thread = tiles // cpu.cores if tiles % cpu.cores == 0 else tiles

    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("linear")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", rows, k, lanes)
        weight = argument("weight", blocks, k, channels)
        bias = argument("bias", n) if epilogue.bias else None
        residual = argument("residual", rows, n, lanes) if epilogue.residual else None
        y = argument("y", rows, n, lanes)

        def multiply(tile: list[tuple[int, int]]) -> None:
            """Multiply and add for all (row, lane) vectors of a tile."""
            panel = flat(x[first_row, 0, 0], tile_rows * k * lanes)
            weights = flat(weight[block, 0, 0], k * channels)
            for i in range(channels * len(tile)):
                acc[i] = T.Broadcast(T.float32(0), width)
            with T.serial(T.int64(0), T.int64(k)) as k_index:
                starts = [k_index * lanes + (row * k * lanes + lane) for row, lane in tile]
                for v, start in enumerate(starts):
                    if v * width % FLOATS_PER_CACHE_LINE == 0:
                        prefetch(panel[start + PANEL_AHEAD * lanes])
                prefetch(weights[k_index * channels + WEIGHTS_AHEAD])
                sources = [T.bind(panel[vector(start, width)]) for start in starts]
                for c in range(channels):
                    factor = T.bind(T.Broadcast(weights[k_index * channels + c], width))
                    for v, source in enumerate(sources):
                        i = c * len(tile) + v
                        acc[i] = acc[i] + factor * source

        def store(c: int, tile: list[tuple[int, int]]) -> None:
            channel = block * channels + c
            for v, (row, lane) in enumerate(tile):
                value = acc[c * len(tile) + v]
                place = [first_row + row, channel, vector(T.int64(lane), width)]
                if bias is not None:
                    value = value + T.Broadcast(bias[channel], width)
                if residual is not None:
                    value = value + residual[tuple(place)]
                T.buffer_store(y, epilogue.activate(T.bind(value)), place)

        def visit_rows(count: int) -> None:
            for first in range(0, vectors, tiling.vectors):
                piece = range(first, min(first + tiling.vectors, vectors))
                tile = [(row, v * width) for row in range(count) for v in piece]
                multiply(tile)
                for c in range(channels):
                    if c < n - (blocks - 1) * channels:
                        store(c, tile)
                    else:  # the last block has no such channel
                        with T.If(block < blocks - 1), T.Then():
                            store(c, tile)

        jobs = T.parallel(T.int64(0), T.int64(blocks * tiles))
        with jobs as job, T.sblock("linear"):
            share = job // (tiles_per_thread * blocks) * tiles_per_thread
            tile_index = T.axis.spatial(T.int64(tiles), share + job % tiles_per_thread)
            block = T.axis.spatial(T.int64(blocks), job // tiles_per_thread % blocks)
            first_row = tile_index * tile_rows if tile_rows > 1 else tile_index
            own = slice(first_row, row_end(first_row, tile_rows, rows))
            outputs = slice(block * channels, _end(block, channels, n))
            T.reads(
                x[own, 0:k, 0:lanes],
                weight[block, 0:k, 0:channels],
                *([] if bias is None else [bias[outputs]]),
                *([] if residual is None else [residual[own, outputs, 0:lanes]]),
            )
            T.writes(y[own, outputs, 0:lanes])
            acc = Registers(channels * tiling.vectors, width)
            visit_blocks(tile_index, rows, tile_rows, visit_rows)
    return builder.get()


def _end(block: Expr, channels: int, n: int) -> Expr:
    end = block * channels + channels
    return end if n % channels == 0 else T.min(end, T.int64(n))

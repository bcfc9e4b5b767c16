"""Sparse linear layer on panels: ``y[r, n, :] = act(sum_k w[n, k] x[r, k, :] + ...)``.

The loops::

    for rows, chunk in parallel:         # some panels of lanes, a chunk of output channels
        for k_block:                     # its part of the panel stays in L1
            for group:                   # R output channels
                for piece of the lanes:  # V vectors; all of them if the registers suffice
                    R x rows x V accumulators = bias (first K block) or the partial sums in y
                    for step:            # the R channels walk their own non-zeros side by side
                        R times: load offset and weight; rows x V multiply-adds from the panels
                    y = accumulators, in the last K block after residual and activation

Rows are outermost, so that a thread works on the same rows in all layers of a network and finds
their activations in its own cache; that was worth more than reading only a share of the weights
(12 layers of 768 x 768 with 95 % zeros on two threads: 0.51 against 0.82 ms).

Several rows are computed together where a row has so few lanes that they alone would not pay for
loading a weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.formats import OFFSET_UNIT, SparseLayout, SparseTiling
from tvm_sparse.schedules.buffers import (
    FLOATS_PER_CACHE_LINE,
    Registers,
    argument,
    flat,
    prefetch,
    vector,
)
from tvm_sparse.schedules.epilogue import Epilogue
from tvm_sparse.schedules.row_blocks import peel_ends, row_end, visit_blocks
from tvm_sparse.schedules.sparse_walk import SparseArguments
from tvm_sparse.targets import CpuProfile

if TYPE_CHECKING:
    from tvm.ir import Expr


def sparse_linear(
    rows: int,
    lanes: int,
    n: int,
    k: int,
    tiling: SparseTiling,
    epilogue: Epilogue,
    cpu: CpuProfile,
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a sparse linear layer.

    It does not depend on where the non-zeros are, nor on how many there are, so layers of one
    shape and tiling share it.

    Parameters
    ----------
    rows, lanes : int
        Rows (panels) of the activations, and lanes of a row.
    n, k : int
        Output and input channels.
    tiling : SparseTiling
        How the weight was packed.
    epilogue : Epilogue
        Which of bias, residual and activation follow the product.
    cpu : CpuProfile
        Gives the length and the number of vectors.

    Returns
    -------
    PrimFunc
        ``(x [rows, K, lanes], indptr, channels, offsets, values, [bias [N]],
        [residual [rows, N, lanes]], y [rows, N, lanes])``, activations float32, the weight's
        arrays as in `PackedSparse`.
    """
    layout = SparseLayout.linear(n, k, lanes, tiling)
    width = cpu.vector_width(lanes)
    vectors = lanes // width
    # Besides the accumulators, registers hold a weight and, without memory operands, an input.
    pieces = -(-vectors * tiling.rows * tiling.group // (cpu.vector_registers - 2))
    most_vectors = -(-vectors // pieces)
    blocks = -(-rows // tiling.rows)
    # Larger activations come from the L3 cache; non-zeros touch them in no order that the
    # processor could foresee, and without hints that takes 20 to 40 % more time. Outputs are
    # asked for only if they cannot stay in L2, since a hint that is not needed costs up to 10 %.
    l2_floats = cpu.l2_bytes // 4

    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("sparse_linear")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", rows, k, lanes)
        weight = SparseArguments(layout, OFFSET_UNIT, width, epilogue)
        residual = argument("residual", rows, n, lanes) if epilogue.residual else None
        y = argument("y", rows, n, lanes)

        def visit(count: int, k_block: Expr, g: Expr, is_first: bool, is_last: bool) -> None:
            group = weight.group(chunk, k_block, g)
            for first_vector in range(0, vectors, most_vectors):
                lane = first_vector * width
                piece = min(most_vectors, vectors - first_vector)
                tile = [(i, v * width) for i in range(count) for v in range(piece)]

                def place(
                    channel: Expr, t: int, lane: int = lane, tile: list[tuple[int, int]] = tile
                ) -> tuple[Expr, ...]:
                    return row + tile[t][0], channel, vector(T.int64(lane + tile[t][1]), width)

                group.multiply(
                    acc,
                    flat(x[row, k_block * tiling.k_block, lane], k * lanes),
                    [i * k * lanes + v for i, v in tile],
                    y,
                    residual,
                    place,
                    is_first,
                    is_last,
                )

        def visit_rows(count: int) -> None:
            for first, end in peel_ends(layout.k_blocks):
                k_blocks = T.serial(T.int64(first), T.int64(end))
                groups = T.serial(T.int64(0), T.int64(layout.chunk_groups))
                with k_blocks as k_block, groups as g:
                    if rows * k * lanes > l2_floats // 2:
                        depth = layout.block_columns
                        prefetch_next(x, k_block * depth, depth, g, count)
                    if rows * n * lanes > l2_floats and first == 0:
                        first_channel = chunk * layout.chunk_channels
                        prefetch_next(y, first_channel, layout.chunk_channels, g, count)
                    visit(count, k_block, g, first == 0, end == layout.k_blocks)

        def prefetch_next(panels: Expr, channel: Expr, size: int, g: Expr, count: int) -> None:
            """Ask for some channels of the next rows, a share of them with every group."""
            share = -(-size * lanes // FLOATS_PER_CACHE_LINE // layout.chunk_groups)
            with T.serial(T.int64(0), T.int64(share)) as line:
                lane = (g * share + line) * FLOATS_PER_CACHE_LINE
                for i in range(count):
                    prefetch(panels[row + tiling.rows + i, channel, lane])

        jobs = T.parallel(T.int64(0), T.int64(tiling.chunks * blocks))
        with jobs as job, T.sblock("sparse_linear"):
            block = T.axis.spatial(T.int64(blocks), job // tiling.chunks)
            chunk = T.axis.spatial(T.int64(tiling.chunks), job % tiling.chunks)
            row = block * tiling.rows if tiling.rows > 1 else block
            outputs = slice(
                chunk * layout.chunk_channels, chunk * layout.chunk_channels + layout.chunk_channels
            )
            own = slice(row, row_end(row, tiling.rows, rows))
            T.reads(
                x[own, 0:k, 0:lanes],
                *weight.regions(),
                *([] if residual is None else [residual[own, outputs, 0:lanes]]),
            )
            T.writes(y[own, outputs, 0:lanes])
            acc = Registers(tiling.group * tiling.rows * most_vectors, width)
            visit_blocks(block, rows, tiling.rows, visit_rows)
    return builder.get()

"""Sparse convolution on image panels.

The loops::

    for image, block of output rows, chunk of output channels in parallel:
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

from typing import TYPE_CHECKING

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.convolution import Conv2d
from tvm_sparse.formats import SparseConvTiling, SparseLayout, sparse_window
from tvm_sparse.schedules.buffers import Registers, argument, vector
from tvm_sparse.schedules.epilogue import Epilogue
from tvm_sparse.schedules.gather_window import gather_window
from tvm_sparse.schedules.row_blocks import peel_ends, row_end, visit_blocks
from tvm_sparse.schedules.sparse_walk import SparseArguments
from tvm_sparse.targets import CpuProfile

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


def sparse_conv2d(
    problem: Conv2d, tiling: SparseConvTiling, epilogue: Epilogue, cpu: CpuProfile
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a sparse convolution.

    It does not depend on where the non-zeros are, nor on how many there are, so layers of one
    shape and tiling share it.

    Parameters
    ----------
    problem : Conv2d
        The convolution, of one group.
    tiling : SparseConvTiling
        How the weight was packed, and the work is cut.
    epilogue : Epilogue
        Which of bias, residual and activation follow the product.
    cpu : CpuProfile
        Gives the number of vector registers.

    Returns
    -------
    PrimFunc
        ``(x [N * H, C, lanes_in], indptr, channels, offsets, values, [bias [Co]],
        [residual [N * Ho, Co, lanes_out]], y [N * Ho, Co, lanes_out])``, activations float32, the
        weight's arrays as `PackedSparse.from_conv2d` makes them.
    """
    layout = SparseLayout.conv2d(problem, tiling)
    window = sparse_window(problem, tiling)
    n, lanes, width = layout.n, problem.lanes_out, tiling.width
    vectors = window.vectors
    # Besides the accumulators, registers hold a weight and, without memory operands, an input.
    pieces = -(-vectors * tiling.rows * tiling.group // (cpu.vector_registers - 2))
    most_vectors = -(-vectors // pieces)
    blocks = -(-problem.out_height // tiling.row_block)
    out_rows = problem.batch * problem.out_height

    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("sparse_conv2d")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", problem.batch * problem.height, problem.channels, problem.lanes_in)
        weight = SparseArguments(layout, 1, width, epilogue)
        residual = argument("residual", out_rows, n, lanes) if epilogue.residual else None
        y = argument("y", out_rows, n, lanes)

        def visit_group(
            row: Expr, count: int, k_block: Expr, g: Expr, is_first: bool, is_last: bool
        ) -> None:
            group = weight.group(chunk, k_block, g)
            # Offsets count from `lead` floats before the rows, see `Window.offset`.
            base = T.bind(row * window.out_row_pitch + (window.front - window.lead))
            for first_vector in range(0, vectors, most_vectors):
                piece = range(first_vector, min(first_vector + most_vectors, vectors))
                tile = [(i, v * width) for i in range(count) for v in piece]

                def place(
                    channel: Expr, t: int, tile: list[tuple[int, int]] = tile
                ) -> tuple[Expr, ...]:
                    i, lane = tile[t]
                    return first_row + row + i, channel, vector(T.int64(lane), width)

                group.multiply(
                    acc,
                    memory,
                    [base + (i * window.out_row_pitch + lane) for i, lane in tile],
                    y,
                    residual,
                    place,
                    is_first,
                    is_last,
                )
            if is_last:
                store_zeros(row, count)

        def store_zeros(row: Expr, count: int) -> None:
            """Fill the lanes that no vector covers: nobody reads them, but they must be finite."""
            for lane in range(vectors * width, lanes, width):
                zeros = T.Broadcast(T.float32(0), width)
                rows = T.serial(T.int64(0), T.int64(count))
                with rows as i, T.serial(T.int64(0), T.int64(layout.chunk_channels)) as c:
                    channel = chunk * layout.chunk_channels + c
                    T.buffer_store(y, zeros, [first_row + row + i, channel, vector(lane, width)])

        def visit_tile(row: Expr, count: int, k_block: Expr, ends: tuple[bool, bool]) -> None:
            with T.serial(T.int64(0), T.int64(layout.chunk_groups)) as g:
                visit_group(row, count, k_block, g, *ends)

        def visit_rows(count: int) -> None:
            for first, end in peel_ends(layout.k_blocks):
                ends = (first == 0, end == layout.k_blocks)
                with T.serial(T.int64(first), T.int64(end)) as k_block:
                    channel = k_block * window.channels
                    left = problem.channels - first * window.channels
                    source = block * (tiling.row_block * problem.stride[0]) - problem.padding[0]
                    gather_window(
                        x, memory, window, image, source, channel, min(window.channels, left)
                    )
                    whole, rest = divmod(count, tiling.rows)
                    if whole:
                        with T.serial(T.int64(0), T.int64(whole)) as i:
                            visit_tile(i * tiling.rows, tiling.rows, k_block, ends)
                    if rest:
                        visit_tile(T.int64(whole * tiling.rows), rest, k_block, ends)

        jobs = T.parallel(T.int64(0), T.int64(problem.batch * blocks * tiling.chunks))
        with jobs as job, T.sblock("sparse_conv2d"):
            image = T.axis.spatial(T.int64(problem.batch), job // (blocks * tiling.chunks))
            block = T.axis.spatial(T.int64(blocks), job // tiling.chunks % blocks)
            chunk = T.axis.spatial(T.int64(tiling.chunks), job % tiling.chunks)
            first_row = image * problem.out_height + block * tiling.row_block
            outputs = slice(
                chunk * layout.chunk_channels, chunk * layout.chunk_channels + layout.chunk_channels
            )
            end = row_end(block * tiling.row_block, tiling.row_block, problem.out_height)
            own = slice(first_row, image * problem.out_height + end)
            seen = slice(image * problem.height, image * problem.height + problem.height)
            T.reads(
                x[seen, 0 : problem.channels, 0 : problem.lanes_in],
                *weight.regions(),
                *([] if residual is None else [residual[own, outputs, 0:lanes]]),
            )
            T.writes(y[own, outputs, 0:lanes])
            size = window.size(tiling.row_block)
            memory = T.sblock_alloc_buffer((T.int64(size),), "float32")
            acc = Registers(tiling.group * tiling.rows * most_vectors, width)
            visit_blocks(block, problem.out_height, tiling.row_block, visit_rows)
    return builder.get()

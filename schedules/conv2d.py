"""Dense convolution on image panels.

The loops::

    for image, block of output rows, chunk of output channels in parallel:
        gather the input rows, padded with zeros, into a window that stays in L2
        for block of NB output channels:     # its weights are read by all tiles
            for tile of the output rows:
                for piece of the lanes:      # rows x V vectors
                    NB x rows x V accumulators = 0
                    for input channel, kernel row, kernel column:
                        rows x V loads from the window, NB weights, all multiply-adds
                    y = accumulators, after bias, residual and activation
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.conv_cost_model import DenseConvTiling, dense_conv_tiling
from tvm_sparse.convolution import Conv2d, Window
from tvm_sparse.schedules.buffers import Registers, argument, flat, prefetch, vector
from tvm_sparse.schedules.epilogue import Epilogue
from tvm_sparse.schedules.gather_window import gather_window
from tvm_sparse.schedules.row_blocks import row_end, visit_blocks
from tvm_sparse.targets import CpuProfile

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

WEIGHTS_AHEAD = 1024
"""Weights by which they are asked for ahead of their use, as in the dense linear kernel."""


def pack_conv2d(
    weight: NDArray[np.float32], problem: Conv2d, cpu: CpuProfile
) -> NDArray[np.float32]:
    """Reorder a weight ``[Co, C / groups, kh, kw]`` into ``[blocks, C / groups, kh, kw, NB]``.

    The last block of each group is filled up with zeros.
    """
    channels = dense_conv_tiling(problem, cpu).channels
    grouped = weight.reshape(problem.groups, -1, *weight.shape[1:])
    padding = [(0, 0), (0, -grouped.shape[1] % channels), (0, 0), (0, 0), (0, 0)]
    blocks = np.pad(grouped, padding).reshape(-1, channels, *weight.shape[1:])
    return np.ascontiguousarray(np.moveaxis(blocks, 1, -1))


def conv2d(
    problem: Conv2d, epilogue: Epilogue, cpu: CpuProfile, tiling: DenseConvTiling | None = None
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a dense convolution.

    Parameters
    ----------
    problem : Conv2d
        The convolution, of any number of groups.
    epilogue : Epilogue
        Which of bias, residual and activation follow the product.
    cpu : CpuProfile
        Gives the vector length and the register tile.
    tiling : DenseConvTiling, optional
        Instead of the cost model's; its `channels` must be those of the packed weight.

    Returns
    -------
    PrimFunc
        ``(x [N * H, C, lanes_in], weight [blocks, C / groups, kh, kw, NB], [bias [Co]],
        [residual [N * Ho, Co, lanes_out]], y [N * Ho, Co, lanes_out])``, all float32, the weight
        from `pack_conv2d`.
    """
    tiling = tiling or dense_conv_tiling(problem, cpu)
    window = Window(problem, tiling.width, problem.channels)
    n, lanes, width = problem.out_channels, problem.lanes_out, tiling.width
    group_inputs, group_outputs = problem.channels // problem.groups, n // problem.groups
    group_blocks = -(-group_outputs // tiling.channels)
    blocks = group_blocks * problem.groups
    chunk_blocks = -(-blocks // tiling.chunks)
    row_blocks = -(-problem.out_height // tiling.row_block)
    out_rows = problem.batch * problem.out_height
    kh, kw = problem.kernel

    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("conv2d")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", problem.batch * problem.height, problem.channels, problem.lanes_in)
        weight = argument("weight", blocks, group_inputs, kh, kw, tiling.channels)
        bias = argument("bias", n) if epilogue.bias else None
        residual = argument("residual", out_rows, n, lanes) if epilogue.residual else None
        y = argument("y", out_rows, n, lanes)

        def multiply(row: Expr, block: Expr, tile: list[tuple[int, int]]) -> None:
            """Multiply and add for all (row, lane) vectors of a tile."""
            weights = flat(weight[block, 0, 0, 0, 0], group_inputs * kh * kw * tiling.channels)
            first_channel = block // group_blocks * group_inputs
            # Offsets count from `lead` floats before the rows, see `Window.offset`.
            base = T.bind(
                row * window.out_row_pitch
                + first_channel * window.channel_pitch
                + (window.front - window.lead)
            )
            for i in range(tiling.channels * len(tile)):
                acc[i] = T.Broadcast(T.float32(0), width)
            inputs = T.serial(T.int64(0), T.int64(group_inputs))
            with inputs as c, T.serial(T.int64(0), T.int64(kh)) as dy:
                start = base + c * window.channel_pitch
                start = T.bind(start + dy * (problem.dilation[0] * window.row_pitch))
                for dx in range(kw):
                    tap = ((c * kh + dy) * kw + dx) * tiling.channels
                    prefetch(weights[tap + WEIGHTS_AHEAD])
                    places = [
                        i * window.out_row_pitch + lane + window.offset(0, 0, dx)
                        for i, lane in tile
                    ]
                    sources = [T.bind(memory[vector(start + p, width)]) for p in places]
                    for k in range(tiling.channels):
                        factor = T.bind(T.Broadcast(weights[tap + k], width))
                        for v, source in enumerate(sources):
                            i = k * len(tile) + v
                            acc[i] = acc[i] + factor * source

        def store(k: int, row: Expr, block: Expr, tile: list[tuple[int, int]]) -> None:
            channel = block // group_blocks * group_outputs
            channel = channel + block % group_blocks * tiling.channels + k
            for v, (i, lane) in enumerate(tile):
                value = acc[k * len(tile) + v]
                place = [first_row + row + i, channel, vector(T.int64(lane), width)]
                if bias is not None:
                    value = value + T.Broadcast(bias[channel], width)
                if residual is not None:
                    value = value + residual[tuple(place)]
                T.buffer_store(y, epilogue.activate(T.bind(value)), place)
            if tile[-1][1] == (window.vectors - 1) * width:
                zeros = T.Broadcast(T.float32(0), width)
                # Nobody reads these lanes, but they must be finite.
                for lane in range(window.vectors * width, lanes, width):
                    for i in sorted({i for i, _ in tile}):
                        place = [first_row + row + i, channel, vector(T.int64(lane), width)]
                        T.buffer_store(y, zeros, place)

        def visit_tile(row: Expr, count: int, block: Expr) -> None:
            pieces = -(-window.vectors // tiling.vectors)
            for piece in range(pieces):
                first, end = (window.vectors * p // pieces for p in (piece, piece + 1))
                tile = [(i, v * width) for i in range(count) for v in range(first, end)]
                multiply(row, block, tile)
                for k in range(tiling.channels):
                    if k < group_outputs - (group_blocks - 1) * tiling.channels:
                        store(k, row, block, tile)
                    else:  # the last block of a group has no such channel
                        with T.If(block % group_blocks < group_blocks - 1), T.Then():
                            store(k, row, block, tile)

        def visit_rows(count: int) -> None:
            source = row_block * (tiling.row_block * problem.stride[0]) - problem.padding[0]
            gather_window(x, memory, window, image, source, T.int64(0), problem.channels)
            first_block = T.bind(chunk * chunk_blocks)
            mine = T.bind(T.min(T.int64(chunk_blocks), blocks - first_block))
            whole, rest = divmod(count, tiling.rows)
            with T.serial(T.int64(0), mine) as b:
                block = T.bind(first_block + b)
                if whole:
                    with T.serial(T.int64(0), T.int64(whole)) as i:
                        visit_tile(i * tiling.rows, tiling.rows, block)
                if rest:
                    visit_tile(T.int64(whole * tiling.rows), rest, block)

        jobs = T.parallel(T.int64(0), T.int64(problem.batch * row_blocks * tiling.chunks))
        with jobs as job, T.sblock("conv2d"):
            image = T.axis.spatial(T.int64(problem.batch), job // (row_blocks * tiling.chunks))
            row_block = T.axis.spatial(T.int64(row_blocks), job // tiling.chunks % row_blocks)
            chunk = T.axis.spatial(T.int64(tiling.chunks), job % tiling.chunks)
            first_row = image * problem.out_height + row_block * tiling.row_block
            end = row_end(row_block * tiling.row_block, tiling.row_block, problem.out_height)
            own = slice(first_row, image * problem.out_height + end)
            seen = slice(image * problem.height, image * problem.height + problem.height)
            T.reads(
                x[seen, 0 : problem.channels, 0 : problem.lanes_in],
                weight[0:blocks, 0:group_inputs, 0:kh, 0:kw, 0 : tiling.channels],
                *([] if bias is None else [bias[0:n]]),
                *([] if residual is None else [residual[own, 0:n, 0:lanes]]),
            )
            T.writes(y[own, 0:n, 0:lanes])
            size = window.size(tiling.row_block)
            memory = T.sblock_alloc_buffer((T.int64(size),), "float32")
            acc = Registers(tiling.channels * tiling.rows * tiling.vectors, width)
            visit_blocks(row_block, problem.out_height, tiling.row_block, visit_rows)
    return builder.get()

"""Depthwise convolution on image panels: every channel has one kernel of its own.

The loops::

    for image, block of output rows, block of channels in parallel:
        gather the input rows, padded with zeros, into a window that stays in L1
        for channel:
            for tile of the output rows:
                for piece of the lanes:      # rows x V vectors
                    rows x V accumulators = bias
                    for input row of the tile, kernel column:
                        V loads from the window, each for all output rows that see them
                    y = accumulators, after residual and activation
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.conv_cost_model import depthwise_tiling
from tvm_sparse.convolution import Conv2d, Window
from tvm_sparse.schedules.buffers import Registers, argument, flat, vector
from tvm_sparse.schedules.epilogue import Epilogue
from tvm_sparse.schedules.gather_window import gather_window
from tvm_sparse.schedules.row_blocks import row_end, visit_blocks
from tvm_sparse.targets import CpuProfile

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


def depthwise_conv2d(problem: Conv2d, epilogue: Epilogue, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    """Build the kernel of a depthwise convolution.

    Parameters
    ----------
    problem : Conv2d
        The convolution; as many groups as input and as output channels.
    epilogue : Epilogue
        Which of bias, residual and activation follow the product.
    cpu : CpuProfile
        Gives the vector length and the register tile.

    Returns
    -------
    PrimFunc
        ``(x [N * H, C, lanes_in], weight [C, 1, kh, kw], [bias [C]],
        [residual [N * Ho, C, lanes_out]], y [N * Ho, C, lanes_out])``, all float32.
    """
    channels = problem.channels
    if not problem.groups == channels == problem.out_channels:
        raise ValueError(f"a depthwise convolution has one channel per group: {problem}")
    tiling = depthwise_tiling(problem, cpu)
    width, lanes, size = tiling.width, problem.lanes_out, tiling.channels
    window = Window(problem, width, size)
    channel_blocks = -(-channels // size)
    row_blocks = -(-problem.out_height // tiling.row_block)
    out_rows = problem.batch * problem.out_height
    (kh, kw), (stride, _), (dilation, _) = problem.kernel, problem.stride, problem.dilation

    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("depthwise_conv2d")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", problem.batch * problem.height, channels, problem.lanes_in)
        weight = argument("weight", channels, 1, kh, kw)
        bias = argument("bias", channels) if epilogue.bias else None
        residual = argument("residual", out_rows, channels, lanes) if epilogue.residual else None
        y = argument("y", out_rows, channels, lanes)

        def visit_tile(row: Expr, count: int, c: Expr, first: int, end: int) -> None:
            """Compute `count` output rows from `row` on, vectors `first` to `end`."""
            channel = first_channel + c
            vectors = end - first
            weights = flat(weight[channel, 0, 0, 0], kh * kw)
            # Offsets count from `lead` floats before the rows, see `Window.offset`.
            base = row * window.out_row_pitch + c * window.channel_pitch
            base = T.bind(base + (window.front - window.lead))
            for i in range(count * vectors):
                start = T.float32(0) if bias is None else bias[channel]
                acc[i] = T.Broadcast(start, width)
            for seen in range(window.rows(count)):
                users = [
                    (i, (seen - i * stride) // dilation)
                    for i in range(count)
                    if (seen - i * stride) % dilation == 0
                    and 0 <= (seen - i * stride) // dilation < kh
                ]
                for dx in range(kw if users else 0):
                    for v in range(vectors):
                        place = seen * window.row_pitch + window.offset(0, 0, dx)
                        place += (first + v) * width
                        source = T.bind(memory[vector(base + place, width)])
                        for i, dy in users:
                            factor = T.Broadcast(weights[dy * kw + dx], width)
                            at = i * vectors + v
                            acc[at] = acc[at] + factor * source
            for i in range(count):
                for v in range(vectors):
                    value = acc[i * vectors + v]
                    lane = T.int64((first + v) * width)
                    store(row + i, channel, lane, value)

        def store(row: Expr, channel: Expr, lane: Expr, value: Expr) -> None:
            place = [first_row + row, channel, vector(lane, width)]
            if residual is not None:
                value = value + residual[tuple(place)]
            T.buffer_store(y, epilogue.activate(T.bind(value)), place)

        def visit_channel(c: Expr, count: int) -> None:
            pieces = -(-window.vectors // tiling.vectors)
            cuts = [window.vectors * p // pieces for p in range(pieces + 1)]
            whole, rest = divmod(count, tiling.rows)
            for first, end in itertools.pairwise(cuts):
                if whole:
                    with T.serial(T.int64(0), T.int64(whole)) as i:
                        visit_tile(i * tiling.rows, tiling.rows, c, first, end)
                if rest:
                    visit_tile(T.int64(whole * tiling.rows), rest, c, first, end)
            # Nobody reads these lanes, but they must be finite.
            for lane in range(window.vectors * width, lanes, width):
                with T.serial(T.int64(0), T.int64(count)) as row:
                    place = [first_row + row, first_channel + c, vector(T.int64(lane), width)]
                    T.buffer_store(y, T.Broadcast(T.float32(0), width), place)

        def visit_rows(count: int) -> None:
            source = row_block * (tiling.row_block * stride) - problem.padding[0]

            def visit_channels(mine: int) -> None:
                gather_window(x, memory, window, image, source, first_channel, mine)
                with T.serial(T.int64(0), T.int64(mine)) as c:
                    visit_channel(c, count)

            visit_blocks(block, channels, size, visit_channels)

        jobs = T.parallel(T.int64(0), T.int64(problem.batch * row_blocks * channel_blocks))
        with jobs as job, T.sblock("depthwise_conv2d"):
            image = T.axis.spatial(T.int64(problem.batch), job // (row_blocks * channel_blocks))
            row_block = T.axis.spatial(T.int64(row_blocks), job // channel_blocks % row_blocks)
            block = T.axis.spatial(T.int64(channel_blocks), job % channel_blocks)
            first_row = image * problem.out_height + row_block * tiling.row_block
            first_channel = T.bind(block * size)
            end = row_end(row_block * tiling.row_block, tiling.row_block, problem.out_height)
            own = slice(first_row, image * problem.out_height + end)
            mine = slice(block * size, row_end(block * size, size, channels))
            seen_rows = slice(image * problem.height, image * problem.height + problem.height)
            T.reads(
                x[seen_rows, mine, 0 : problem.lanes_in],
                weight[mine, 0:1, 0:kh, 0:kw],
                *([] if bias is None else [bias[mine]]),
                *([] if residual is None else [residual[own, mine, 0:lanes]]),
            )
            T.writes(y[own, mine, 0:lanes])
            memory = T.sblock_alloc_buffer((T.int64(window.size(tiling.row_block)),), "float32")
            acc = Registers(tiling.rows * tiling.vectors, width)
            visit_blocks(row_block, problem.out_height, tiling.row_block, visit_rows)
    return builder.get()

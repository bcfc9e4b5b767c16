"""Bilinear enlargement of image panels.

An output row is made in two passes: two input rows are mixed, by whole vectors, into a line in L1;
then every output vector mixes two permutations of it, whose patterns and weights are constants.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.buffers import argument, job_loop, vector

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

    from tvm_sparse.resizing import Resize2d
    from tvm_sparse.targets import CpuProfile


def bilinear2d(resize: Resize2d, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    """Build the enlargement.

    Returns
    -------
    PrimFunc
        ``(x [batch * height, channels, lanes_in], y [batch * out_height, channels, lanes_out])``,
        float32.
    """
    rows, channels = resize.batch * resize.out_height, resize.channels
    width, out = cpu.vector_width(resize.lanes_in), cpu.vector_width(resize.lanes_out)
    pitch = -(-resize.width // width) * width
    most = max(cpu.l1_bytes // (2 * 4 * pitch), 1)
    chunk = next(c for c in range(min(most, channels), 0, -1) if channels % c == 0)
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("bilinear2d")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", resize.batch * resize.height, channels, resize.lanes_in)
        y = argument("y", rows, channels, resize.lanes_out)
        with job_loop(rows, rows * channels * resize.lanes_out) as i, T.sblock("bilinear2d"):
            row = T.axis.spatial(T.int64(rows), i)
            image = row // resize.out_height
            seen = slice(image * resize.height, image * resize.height + resize.height)
            T.reads(x[seen, 0:channels, 0 : resize.lanes_in])
            T.writes(y[row, 0:channels, 0 : resize.lanes_out])
            # The loads of the last channel may reach beyond its end.
            memory = T.sblock_alloc_buffer((T.int64(chunk * pitch + out),), "float32")
            upper, lower, share = _rows(resize, row % resize.out_height)
            with T.serial(T.int64(0), T.int64(channels // chunk)) as block:
                first = T.bind(block * chunk)
                with T.serial(T.int64(0), T.int64(chunk)) as c:
                    for lane in range(0, pitch, width):
                        place = vector(T.int64(lane), width)
                        above = T.bind(x[image * resize.height + upper, first + c, place])
                        below = x[image * resize.height + lower, first + c, place]
                        mixed = above + (below - above) * T.Broadcast(share, width)
                        T.buffer_store(memory, mixed, [vector(c * pitch + lane, width)])
                with T.serial(T.int64(0), T.int64(chunk)) as c:
                    for lane in range(0, resize.lanes_out, out):
                        mixed = _mix_columns(resize, memory, c * pitch, lane, out)
                        T.buffer_store(y, mixed, [row, first + c, vector(T.int64(lane), out)])
    return builder.get()


def _rows(resize: Resize2d, row: Expr) -> tuple[Expr, Expr, Expr]:
    """Return the two input rows that an output row lies between, and the second one's share."""
    scale, shift = resize.line(0)
    source = T.bind(T.Cast("float32", row) * T.float32(scale) + T.float32(shift))
    floor = T.bind(T.floor(source))
    last = T.int64(resize.height - 1)
    upper = T.bind(T.Cast("int64", floor))
    rows = [T.bind(T.max(T.min(r, last), T.int64(0))) for r in (upper, upper + 1)]
    return rows[0], rows[1], T.bind(source - floor)


def _mix_columns(resize: Resize2d, memory: Expr, start: Expr, lane: int, width: int) -> Expr:
    """Return a vector of the output; lanes beyond the last column repeat it."""
    scale, shift = resize.line(1)
    sources = [scale * min(lane + i, resize.out_width - 1) + shift for i in range(width)]
    shares = [T.float32(source - math.floor(source)) for source in sources]
    left, right = (
        _permuted(
            memory,
            start,
            [min(max(math.floor(source) + step, 0), resize.width - 1) for source in sources],
        )
        for step in (0, 1)
    )
    return left + (right - left) * T.Shuffle(shares, list(range(width)))


def _permuted(memory: Expr, start: Expr, columns: list[int]) -> Expr:
    """Load the given columns of a channel, ascending ones that one vector reaches."""
    width = len(columns)
    loaded = memory[vector(start + columns[0], width)]
    return T.bind(T.Shuffle([loaded], [column - columns[0] for column in columns]))

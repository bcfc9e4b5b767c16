"""Nearest-neighbour upsampling of image panels by whole factors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.buffers import argument, job_loop, vector

if TYPE_CHECKING:
    import tvm

    from tvm_sparse.targets import CpuProfile


def upsample2d(
    batch: int,
    channels: int,
    height: int,
    width: int,
    factors: tuple[int, int],
    lanes_in: int,
    lanes_out: int,
    cpu: CpuProfile,
) -> tvm.tirx.PrimFunc:
    """Build the repetition of every pixel `factors` times, vertically and horizontally.

    Returns
    -------
    PrimFunc
        ``(x [batch * height, channels, lanes_in], y [batch * height * factors[0], channels,
        lanes_out])``, float32.
    """
    rows, values = batch * height, cpu.vector_width(lanes_out)
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("upsample2d")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", rows, channels, lanes_in)
        y = argument("y", rows * factors[0], channels, lanes_out)
        with job_loop(rows, rows * factors[0] * channels * lanes_out) as i, T.sblock("upsample2d"):
            row = T.axis.spatial(T.int64(rows), i)
            copies = slice(row * factors[0], row * factors[0] + factors[0])
            T.reads(x[row, 0:channels, 0:lanes_in])
            T.writes(y[copies, 0:channels, 0:lanes_out])
            with T.serial(T.int64(0), T.int64(channels)) as channel:
                for lane in range(0, lanes_out, values):
                    columns = [(lane + j) // factors[1] for j in range(values)]
                    if columns[0] < width:
                        # Two neighbouring vectors at most hold them; lanes of no column may repeat.
                        first = min(columns[0], lanes_in - values) if lanes_in >= values else 0
                        span = min(values, lanes_in)
                        source = x[row, channel, vector(T.int64(first), span)]
                        places = [min(column - first, span - 1) for column in columns]
                        # LLVM wants as many lanes to choose from as it gives.
                        sources = [source] * (values // span)
                        repeated = T.bind(T.Shuffle(sources, places))
                    else:
                        repeated = T.Broadcast(T.float32(0), values)
                    for copy in range(factors[0]):
                        place = [row * factors[0] + copy, channel, vector(T.int64(lane), values)]
                        T.buffer_store(y, repeated, place)
    return builder.get()

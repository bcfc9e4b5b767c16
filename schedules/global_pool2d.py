"""Pooling over whole images: image panels ``[batch * height, channels, lanes]`` to one value each.

The result lies in image panels, too, of an image of one pixel: whatever follows, such as the
layers of squeeze-and-excite, stays on panels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.buffers import Registers, argument, job_loop, vector

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

    from tvm_sparse.targets import CpuProfile

CHANNELS = 8
"""Channels that are summed up side by side."""


def global_avg_pool2d(
    batch: int,
    channels: int,
    height: int,
    width: int,
    lanes: int,
    lanes_out: int,
    cpu: CpuProfile,
) -> tvm.tirx.PrimFunc:
    """Build the mean over all pixels of an image.

    Returns
    -------
    PrimFunc
        ``(x [batch * height, channels, lanes], y [batch, channels, lanes_out])``, float32. All
        lanes of y hold the mean.
    """
    side = min(CHANNELS, channels)
    chunks = -(-channels // side)
    values = cpu.vector_width(lanes)
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("global_avg_pool2d")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", batch * height, channels, lanes)
        y = argument("y", batch, channels, lanes_out)
        jobs = job_loop(batch * chunks, batch * height * channels * lanes)
        with jobs as job, T.sblock("global_avg_pool2d"):
            image = T.axis.spatial(T.int64(batch), job // chunks)
            chunk = T.axis.spatial(T.int64(chunks), job % chunks)
            # The last chunk overlaps the one before it, so that every chunk is whole.
            first = T.bind(T.min(chunk * side, T.int64(channels - side)))
            T.reads(x[image * height : image * height + height, first : first + side, 0:lanes])
            T.writes(y[image, first : first + side, 0:lanes_out])
            sums = Registers(side, values)
            for c in range(side):
                sums[c] = T.Broadcast(T.float32(0), values)
            with T.serial(T.int64(0), T.int64(height)) as row:

                def add(lane: Expr | int, valid: int) -> None:
                    for c in range(side):
                        loaded = x[image * height + row, first + c, vector(lane, values)]
                        if valid < values:
                            zeros = T.Broadcast(T.float32(0), values)
                            mask = [i if i < valid else values for i in range(values)]
                            loaded = T.Shuffle([loaded, zeros], mask)
                        sums[c] = sums[c] + loaded

                whole = width // values
                if whole:
                    with T.serial(T.int64(0), T.int64(whole)) as i:
                        add(i * values, values)
                if width % values:
                    add(T.int64(whole * values), width % values)
            for c in range(side):
                mean = _sum_of_lanes(sums[c], values) * T.float32(1 / (height * width))
                T.buffer_store(
                    y,
                    T.Broadcast(mean, lanes_out),
                    [image, first + c, vector(T.int64(0), lanes_out)],
                )
    return builder.get()


def _sum_of_lanes(value: Expr, lanes: int) -> Expr:
    """Return the sum of the lanes of a vector, as a scalar."""
    while lanes > 1:
        lanes //= 2
        value = T.bind(value)
        low, high = (T.Shuffle([value], list(range(i, i + lanes))) for i in (0, lanes))
        value = low + high
    return value

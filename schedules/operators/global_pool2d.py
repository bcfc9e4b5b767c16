"""Pooling over whole images: each channel of ``[batch * height, channels, lanes]`` becomes a value.

The result lies in image panels of one pixel, so that operators behind it, such as the layers of
squeeze-and-excite, stay on panels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.schedules.emit.buffers import (
    Registers,
    argument,
    converted,
    filled,
    job_loop,
    masked,
    number,
    only_lanes,
    opaque,
    vector,
)
from tvm_sparse.schedules.emit.lanes import across_lanes
from tvm_sparse.schedules.emit.sizes import declare, factor, named, size
from tvm_sparse.sizes.extent import Extent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tvm.ir import Expr
    from tvm.tirx import PrimFunc

    from tvm_sparse.cpu.profile import CpuProfile

Shape: TypeAlias = tuple[int, int, int, int]
"""Batch, channels, height, width; batch and height may be an `Extent`, and that of strips, too."""

Strips: TypeAlias = tuple[int, int]
"""How many strips a row of an image is cut into, and their pixels; the last one may have fewer."""

WHOLE: Strips = (1, 0)
"""The rows of images are not cut."""

CHANNELS = 8
"""Channels that are combined side by side, in registers."""


def global_avg_pool2d(
    shape: Shape,
    lanes: int,
    lanes_out: int,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
    strips: Strips = WHOLE,
) -> PrimFunc:
    """Build the mean over all pixels of images of shape `shape`, which is summed up in float32.

    Returns
    -------
    PrimFunc
        ``(x [batch * strips * height, channels, lanes], y [batch, channels, lanes_out])``, of type
        `dtype`. All lanes of y hold the mean.
    """

    def mean(total: Expr) -> Expr:
        height, width = shape[2:]
        if not isinstance(height * width, Extent):
            return total * number(1 / (height * width))
        return total / T.Cast(DType.FLOAT32, size(height) * size(width))

    steps = 0.0, lambda a, b: a + b, mean
    types = dtype, DType.FLOAT32
    return _pool("global_avg_pool2d", shape, strips, lanes, lanes_out, cpu, types, *steps)


def global_max_pool2d(
    shape: Shape,
    lanes: int,
    lanes_out: int,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
    strips: Strips = WHOLE,
) -> PrimFunc:
    """Build the maximum over all pixels; see `global_avg_pool2d`."""
    steps = -math.inf, T.max, lambda a: a
    types = dtype, dtype
    return _pool("global_max_pool2d", shape, strips, lanes, lanes_out, cpu, types, *steps)


def _pool(
    name: str,
    shape: Shape,
    strips: Strips,
    lanes: int,
    lanes_out: int,
    cpu: CpuProfile,
    types: tuple[DType, DType],
    neutral: float,
    combine: Callable[[Expr, Expr], Expr],
    finish: Callable[[Expr], Expr],
) -> PrimFunc:
    batch, channels, height, width = shape
    count, pixels = strips
    side = min(CHANNELS, channels)
    chunks = -(-channels // side)
    dtype, combined = types
    values = cpu.vector_width(lanes, dtype)
    with (
        named((*shape, count)) as variables,
        IRBuilder() as builder,
        T.prim_func(s_tir=True, private=True),
    ):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        images, lines = size(batch), factor(height)
        rows = lines * factor(count)
        x = argument("x", images * rows, channels, lanes, dtype=dtype)
        declare(variables)
        y = argument("y", images, channels, lanes_out, dtype=dtype)
        jobs = job_loop(images * chunks, math.prod(shape[:3]) * count * lanes)
        with jobs as job, T.sblock(name):
            image = T.axis.spatial(images, job // chunks)
            chunk = T.axis.spatial(T.int64(chunks), job % chunks)
            # The last chunk overlaps the one before it, so that every chunk is whole.
            first = T.bind(T.min(chunk * side, T.int64(channels - side)))
            T.reads(x[image * rows : image * rows + rows, first : first + side, 0:lanes])
            T.writes(y[image, first : first + side, 0:lanes_out])
            none = filled(neutral, values, combined)
            acc = Registers(side, values, combined)
            for c in range(side):
                acc[c] = none

            with T.serial(T.int64(0), size(height) * size(count)) as row:

                def add(lane: Expr | int, choose: Callable[[Expr], Expr]) -> None:
                    for c in range(side):
                        loaded = x[image * rows + row, first + c, vector(lane, values)]
                        loaded = converted(loaded, combined)
                        acc[c] = combine(acc[c], choose(loaded))

                if pixels:
                    left = T.bind(size(width) - row // lines * pixels)
                    with T.serial(T.int64(0), T.int64(pixels // values)) as i:
                        begin, end = opaque(T.int64(0)), opaque(left - i * values)
                        add(i * values, lambda loaded: only_lanes(loaded, begin, end, none))
                else:
                    whole, rest = divmod(width, values)
                    if whole:
                        with T.serial(T.int64(0), T.int64(whole)) as i:
                            add(i * values, lambda loaded: loaded)
                    if rest:
                        add(T.int64(whole * values), lambda loaded: masked(loaded, rest, none))
            for c in range(side):
                result = T.Broadcast(
                    converted(finish(across_lanes(acc[c], combine)), dtype), lanes_out
                )
                T.buffer_store(y, result, [image, first + c, vector(T.int64(0), lanes_out)])
    return builder.get()

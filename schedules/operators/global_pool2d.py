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
    vector,
)
from tvm_sparse.schedules.emit.sizes import declare, factor, named, size
from tvm_sparse.sizes.extent import Extent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tvm.ir import Expr
    from tvm.tirx import PrimFunc

    from tvm_sparse.cpu.profile import CpuProfile

Shape: TypeAlias = tuple[int, int, int, int]
"""Batch, channels, height, width; batch and height may be an `Extent`."""

CHANNELS = 8
"""Channels that are combined side by side, in registers."""


def global_avg_pool2d(
    shape: Shape, lanes: int, lanes_out: int, cpu: CpuProfile, dtype: DType = ACTIVATIONS
) -> PrimFunc:
    """Build the mean over all pixels of images of shape `shape`, which is summed up in float32.

    Returns
    -------
    PrimFunc
        ``(x [batch * height, channels, lanes], y [batch, channels, lanes_out])``, of type `dtype`.
        All lanes of y hold the mean.
    """

    def mean(total: Expr) -> Expr:
        height, width = shape[2:]
        if not isinstance(height, Extent):
            return total * number(1 / (height * width))
        return total / T.Cast(DType.FLOAT32, size(height) * width)

    steps = 0.0, lambda a, b: a + b, mean
    types = dtype, DType.FLOAT32
    return _pool("global_avg_pool2d", shape, lanes, lanes_out, cpu, types, *steps)


def global_max_pool2d(
    shape: Shape, lanes: int, lanes_out: int, cpu: CpuProfile, dtype: DType = ACTIVATIONS
) -> PrimFunc:
    """Build the maximum over all pixels; see `global_avg_pool2d`."""
    steps = -math.inf, T.max, lambda a: a
    return _pool("global_max_pool2d", shape, lanes, lanes_out, cpu, (dtype, dtype), *steps)


def _pool(
    name: str,
    shape: Shape,
    lanes: int,
    lanes_out: int,
    cpu: CpuProfile,
    types: tuple[DType, DType],
    neutral: float,
    combine: Callable[[Expr, Expr], Expr],
    finish: Callable[[Expr], Expr],
) -> PrimFunc:
    batch, channels, height, width = shape
    side = min(CHANNELS, channels)
    chunks = -(-channels // side)
    dtype, combined = types
    values = cpu.vector_width(lanes, dtype)
    with (
        named(shape) as variables,
        IRBuilder() as builder,
        T.prim_func(s_tir=True, private=True),
    ):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        images, height = size(batch), factor(height)
        x = argument("x", images * height, channels, lanes, dtype=dtype)
        declare(variables)
        y = argument("y", images, channels, lanes_out, dtype=dtype)
        jobs = job_loop(images * chunks, math.prod(shape[:3]) * lanes)
        with jobs as job, T.sblock(name):
            image = T.axis.spatial(images, job // chunks)
            chunk = T.axis.spatial(T.int64(chunks), job % chunks)
            # The last chunk overlaps the one before it, so that every chunk is whole.
            first = T.bind(T.min(chunk * side, T.int64(channels - side)))
            T.reads(x[image * height : image * height + height, first : first + side, 0:lanes])
            T.writes(y[image, first : first + side, 0:lanes_out])
            none = filled(neutral, values, combined)
            acc = Registers(side, values, combined)
            for c in range(side):
                acc[c] = none

            with T.serial(T.int64(0), size(shape[2])) as row:

                def add(lane: Expr | int, valid: int) -> None:
                    for c in range(side):
                        loaded = x[image * height + row, first + c, vector(lane, values)]
                        loaded = converted(loaded, combined)
                        acc[c] = combine(acc[c], masked(loaded, valid, none))

                if width >= values:
                    with T.serial(T.int64(0), T.int64(width // values)) as i:
                        add(i * values, values)
                if width % values:
                    add(T.int64(width // values * values), width % values)
            for c in range(side):
                result = T.Broadcast(converted(finish(_across(acc[c], combine)), dtype), lanes_out)
                T.buffer_store(y, result, [image, first + c, vector(T.int64(0), lanes_out)])
    return builder.get()


def _across(value: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """Combine the lanes of a vector to a scalar."""
    lanes = value.ty.dtype.lanes
    while lanes > 1:
        lanes //= 2
        whole = T.bind(value)
        low, high = (T.Shuffle([whole], list(range(i, i + lanes))) for i in (0, lanes))
        value = combine(low, high)
    return value

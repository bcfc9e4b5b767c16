"""Pooling of images in panels: over windows, and over all pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators.layouts import lanes_of
from tvm_sparse.passes.ir.operators.operator import (
    PREFIX,
    Operator,
    dtype_of,
    fields_of,
    tensor_type,
)
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.pool2d import Pool2d


def max_pool2d(x: relax.Expr, pool: Pool2d) -> relax.Call:
    """Return the maximum of panels over windows of the image."""
    return MAX_POOL2D.call(x, pool=dataclasses.asdict(pool))


def avg_pool2d(x: relax.Expr, pool: Pool2d) -> relax.Call:
    """Return the mean of panels over windows of the image."""
    return AVG_POOL2D.call(x, pool=dataclasses.asdict(pool))


def global_avg_pool2d(x: relax.Expr, shape: Sequence[int], lanes: int) -> relax.Call:
    """Return the mean over an image of shape `shape`.

    The result lies in panels of images of one pixel, which is repeated in all `lanes` lanes.
    """
    return GLOBAL_AVG_POOL2D.call(x, shape=list(shape), lanes=lanes)


def global_max_pool2d(x: relax.Expr, shape: Sequence[int], lanes: int) -> relax.Call:
    """Return the maximum over an image; parameters and result as of `global_avg_pool2d`."""
    return GLOBAL_MAX_POOL2D.call(x, shape=list(shape), lanes=lanes)


def pool_of(call: relax.Call) -> Pool2d:
    """Return the pooling that a call computes."""
    return Pool2d(**fields_of(call.attrs["pool"]))


def _infer_windows(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    pool = pool_of(call)
    rows = pool.batch * pool.out_height
    return tensor_type(rows, pool.channels, pool.lanes_out, dtype=pool.dtype)


def _infer_global(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    batch, channels = (int(extent) for extent in call.attrs["shape"][:2])
    dtype = dtype_of(call.args[0])
    return tensor_type(batch, channels, int(call.attrs["lanes"]), dtype=dtype)


def _windows(name: str, stage: Callable[[Pool2d, CpuProfile], Stage]) -> Operator:
    return Operator(
        PREFIX + name,
        ("x",),
        infer=_infer_windows,
        stage=lambda call, _images, cpu: stage(pool_of(call), cpu),
        images=lambda call: pool_of(call).batch,
    )


def _global(name: str, build: Callable[..., tvm.tirx.PrimFunc]) -> Operator:
    def kernel(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
        batch, channels, height, width = (int(extent) for extent in call.attrs["shape"])
        (x,) = call.args
        lanes = lanes_of(x), int(call.attrs["lanes"])
        return build((batch, channels, height, width), *lanes, cpu, dtype_of(x))

    return Operator(PREFIX + name, ("x",), infer=_infer_global, kernel=kernel)


MAX_POOL2D = _windows("max_pool2d", schedules.MaxPool2d)
AVG_POOL2D = _windows("avg_pool2d", schedules.AvgPool2d)
GLOBAL_AVG_POOL2D = _global("global_avg_pool2d", schedules.global_avg_pool2d)
GLOBAL_MAX_POOL2D = _global("global_max_pool2d", schedules.global_max_pool2d)

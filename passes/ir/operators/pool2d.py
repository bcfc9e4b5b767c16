"""Pooling of images in panels: over windows, and over all pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators.layouts import lanes_of
from tvm_sparse.passes.ir.operators.operator import (
    PREFIX,
    Operator,
    batch_of,
    dtype_of,
    fields_of,
    of_any_batch,
    tensor_type,
)
from tvm_sparse.passes.ir.shapes import known_extents, known_size, lowered
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.pool2d import Pool2d
from tvm_sparse.sizes.strips import strips_over


def max_pool2d(x: relax.Expr, pool: Pool2d) -> relax.Call:
    """Return the maximum of panels over windows of the image."""
    return MAX_POOL2D.call(x, pool=of_any_batch(pool))


def avg_pool2d(x: relax.Expr, pool: Pool2d) -> relax.Call:
    """Return the mean of panels over windows of the image."""
    return AVG_POOL2D.call(x, pool=of_any_batch(pool))


def global_avg_pool2d(
    x: relax.Expr, image: Sequence[int], lanes: int, strip_pixels: int = 0
) -> relax.Call:
    """Return the mean over images of height and width `image`.

    The result lies in panels of images of one pixel, which is repeated in all `lanes` lanes. The
    rows of images are whole, or strips of `strip_pixels` pixels.
    """
    return GLOBAL_AVG_POOL2D.call(x, **_global_attrs(image, lanes, strip_pixels))


def global_max_pool2d(
    x: relax.Expr, image: Sequence[int], lanes: int, strip_pixels: int = 0
) -> relax.Call:
    """Return the maximum over images; parameters and result as of `global_avg_pool2d`."""
    return GLOBAL_MAX_POOL2D.call(x, **_global_attrs(image, lanes, strip_pixels))


def _global_attrs(image: Sequence[int], lanes: int, strip_pixels: int) -> dict[str, Any]:
    size = [lowered(extent) for extent in image]
    return {"image": size, "lanes": lanes, "strip_pixels": strip_pixels}


def pool_of(call: relax.Call) -> Pool2d:
    """Return the pooling that a call computes."""
    fields = fields_of(call.attrs["pool"])
    return Pool2d(batch=batch_of(call.args[0], fields["height"]), **fields)


def _infer_windows(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    pool = pool_of(call)
    rows = pool.batch * pool.out_height
    return tensor_type(rows, pool.channels, pool.lanes_out, dtype=pool.dtype)


def _infer_global(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    batch, channels, _, _ = _images_of(call)
    dtype = dtype_of(call.args[0])
    return tensor_type(batch, channels, int(call.attrs["lanes"]), dtype=dtype)


def _images_of(call: relax.Call) -> tuple[int, int, int, int]:
    """Return the batch, channels, height and width of the images that a call looks at."""
    (x,), (height, width) = call.args, (known_size(extent) for extent in call.attrs["image"])
    _, channels, _ = known_extents(x)
    return batch_of(x, height * _strips_of(call)), channels, height, width


def _strips_of(call: relax.Call) -> int:
    """Return into how many strips the rows of images are cut."""
    pixels, width = int(call.attrs["strip_pixels"]), known_size(call.attrs["image"][1])
    return strips_over(width, pixels) if pixels else 1


def _windows(name: str, stage: Callable[[Pool2d, CpuProfile], Stage]) -> Operator:
    return Operator(
        PREFIX + name,
        ("x",),
        infer=_infer_windows,
        stage=lambda call, _images, cpu: stage(pool_of(call), cpu),
        images=lambda call: pool_of(call).batch,
        takes_sizes=True,
    )


def _global(name: str, build: Callable[..., tvm.tirx.PrimFunc]) -> Operator:
    def kernel(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
        (x,) = call.args
        lanes = lanes_of(x), int(call.attrs["lanes"])
        strips = _strips_of(call), int(call.attrs["strip_pixels"])
        return build(_images_of(call), *lanes, cpu, dtype_of(x), strips)

    return Operator(
        PREFIX + name,
        ("x",),
        infer=_infer_global,
        kernel=kernel,
        sizes=lambda call: (*_images_of(call), _strips_of(call)),
        takes_sizes=True,
    )


MAX_POOL2D = _windows("max_pool2d", schedules.MaxPool2d)
AVG_POOL2D = _windows("avg_pool2d", schedules.AvgPool2d)
GLOBAL_AVG_POOL2D = _global("global_avg_pool2d", schedules.global_avg_pool2d)
GLOBAL_MAX_POOL2D = _global("global_max_pool2d", schedules.global_max_pool2d)

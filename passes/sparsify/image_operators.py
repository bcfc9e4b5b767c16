"""Reads the sizes of Relax's operators on images ``(batch, channels, height, width)``."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Lookup
from tvm_sparse.passes.ir.shapes import extents_of, image_extents
from tvm_sparse.passes.ir.view_chains import CHANGES, follow
from tvm_sparse.passes.ir.views import View
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.pool2d import Pool2d
from tvm_sparse.sizes.resize2d import COORDINATES, Resize2d

IMAGE_AXES = [2, 3]


def match_pool2d(
    call: relax.Call, lanes: int, cpu: CpuProfile, dtype: DType = ACTIVATIONS
) -> Pool2d | None:
    """Return the sizes of a pooling of images in panels of `lanes` lanes of a type, or None."""
    if not is_call_to(call, "relax.nn.max_pool2d", "relax.nn.avg_pool2d"):
        return None
    attrs = call.attrs
    shape, out = image_extents(call.args[0]), image_extents(call)
    if shape is None or out is None or (attrs["layout"], attrs["out_layout"]) != ("NCHW", "NCHW"):
        return None
    batch, channels, height, width = shape
    top, left, bottom, right = (int(p) for p in attrs["padding"])
    kernel, stride, dilation = (
        (int(pair[0]), int(pair[1]))
        for pair in (attrs["pool_size"], attrs["strides"], attrs["dilation"])
    )
    return Pool2d(
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        out_height=out[2],
        out_width=out[3],
        kernel=kernel,
        stride=stride,
        padding=(top, left, bottom, right),
        dilation=dilation,
        count_padding=bool(attrs["count_include_pad"]),
        lanes_in=lanes,
        lanes_out=cpu.image_lanes(out[3], dtype),
        dtype=dtype,
    )


def is_global_pool(call: relax.Call) -> bool:
    """Whether `call` is the mean or the maximum over the pixels of its argument, an image."""
    shape = extents_of(call.args[0]) if call.args else None
    if shape is None or len(shape) != 4:
        return False
    if is_call_to(call, "relax.nn.adaptive_avg_pool2d"):
        layouts = (call.attrs["layout"], call.attrs["out_layout"])
        return layouts == ("NCHW", "NCHW") and (image_extents(call) or ())[2:] == (1, 1)
    if not is_call_to(call, "relax.mean", "relax.max") or call.attrs["axis"] is None:
        return False
    return sorted(int(axis) % 4 for axis in call.attrs["axis"]) == IMAGE_AXES


def upsampling_factors(call: relax.Call) -> tuple[int, int] | None:
    """Return how often `call` repeats each pixel vertically and horizontally, or None.

    Resizing by whole factors to the nearest neighbour repeats pixels if coordinates are rounded
    down from those of pixels' corners, or to the nearest from those of their centers.
    """
    if not is_call_to(call, "relax.image.resize2d"):
        return None
    attrs = call.attrs
    shape, out = extents_of(call.args[0]), extents_of(call)
    if shape is None or out is None or attrs["layout"] != "NCHW" or call.ty.dtype != ACTIVATIONS:
        return None
    if attrs["method"] != "nearest_neighbor" or out[2] % shape[2] or out[3] % shape[3]:
        return None
    rounding = str(attrs["rounding_method"])
    repeats = {
        "asymmetric": rounding in ("floor", ""),
        "half_pixel": rounding.startswith("round"),
    }
    if not repeats.get(str(attrs["coordinate_transformation_mode"]), False):
        return None
    return out[2] // shape[2], out[3] // shape[3]


@dataclass(frozen=True)
class Blocks:
    """Blocks of pixels out of groups of channels.

    Attributes
    ----------
    image : relax.Expr
        ``(batch, channels, height, width)``.
    block : tuple of int
        Height and width of a block.
    mode : str
        The order of the channels, as ONNX's DepthToSpace names it.
    """

    image: relax.Expr
    block: tuple[int, int]
    mode: str


def match_depth_to_space(call: relax.Call, lookup: Lookup) -> Blocks | None:
    """Return what `call` arranges as blocks of pixels, or None if it does something else."""
    out = extents_of(call) if is_call_to(call, *CHANGES) else None
    view = follow(call, lookup) if out is not None and len(out) == 4 else None
    shape = None if view is None else extents_of(view.base)
    if view is None or out is None or shape is None or len(shape) != 4:
        return None
    batch, channels, height, width = shape
    if view.offset or out[0] != batch or not height * width or out[2] % height or out[3] % width:
        return None
    high, wide = block = out[2] // height, out[3] // width
    whole, planes = View.whole(view.base), out[1]
    if whole is None or block == (1, 1) or channels != planes * high * wide:
        return None
    for mode, parts, order in (
        ("DCR", (high, wide, planes), (0, 3, 4, 1, 5, 2)),
        ("CRD", (planes, high, wide), (0, 1, 4, 2, 5, 3)),
    ):
        parted = whole.reshape((batch, *parts, height, width))
        blocks = None if parted is None else parted.permute(order).reshape(out)
        if blocks is not None and blocks.axes == view.axes:
            return Blocks(view.base, block, mode)
    return None


def match_bilinear(
    call: relax.Call, lanes: int, cpu: CpuProfile, dtype: DType = ACTIVATIONS
) -> Resize2d | None:
    """Return the sizes of a bilinear enlargement of images in panels of some lanes, or None."""
    if not is_call_to(call, "relax.image.resize2d") or call.ty.dtype != ACTIVATIONS:
        return None
    attrs = call.attrs
    shape, out = image_extents(call.args[0]), image_extents(call)
    coordinates = str(attrs["coordinate_transformation_mode"])
    if coordinates == "pytorch_half_pixel" and out is not None and min(out[2:]) > 1:
        coordinates = "half_pixel"
    if shape is None or out is None or (attrs["method"], attrs["layout"]) != ("linear", "NCHW"):
        return None
    if coordinates not in COORDINATES or out[3] < shape[3]:
        return None
    batch, channels, height, width = shape
    if isinstance(height, Extent) and (out[2] % height != 0 or coordinates == "align_corners"):
        return None
    return Resize2d(
        batch,
        channels,
        height,
        width,
        out[2],
        out[3],
        coordinates,
        lanes_in=lanes,
        lanes_out=cpu.image_lanes(out[3], dtype),
        dtype=dtype,
    )

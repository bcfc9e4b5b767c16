"""Enlargement of images in panels: repeated, interpolated, or out of groups of channels."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators.layouts import panels_of
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
from tvm_sparse.sizes.resize2d import Resize2d


def upsample2d(
    x: relax.Expr, image: Sequence[int], factors: tuple[int, int], lanes: int
) -> relax.Call:
    """Repeat every pixel of images of height and width `image`, vertically and horizontally.

    The result lies in panels of `lanes` lanes.
    """
    return UPSAMPLE2D.call(x, image=list(map(lowered, image)), factors=list(factors), lanes=lanes)


def bilinear2d(x: relax.Expr, resize: Resize2d) -> relax.Call:
    """Enlarge the image in panels by linear interpolation."""
    return BILINEAR2D.call(x, resize=of_any_batch(resize))


def depth_to_space(
    x: relax.Expr, image: Sequence[int], block: tuple[int, int], mode: str, lanes: int
) -> relax.Call:
    """Arrange groups of channels of images as blocks of pixels.

    Parameters
    ----------
    x : relax.Expr
        The image, in panels.
    image : sequence of int
        Their height and width.
    block : tuple of int
        Height and width of a block.
    mode : str
        The order of the channels, "DCR" or "CRD", as ONNX's DepthToSpace defines it.
    lanes : int
        Lanes of the panels of the result.
    """
    attrs = {"image": list(map(lowered, image)), "block": list(block), "mode": mode, "lanes": lanes}
    return DEPTH_TO_SPACE.call(x, **attrs)


def resize_of(call: relax.Call) -> Resize2d:
    """Return the enlargement that a call to `bilinear2d` computes."""
    fields = fields_of(call.attrs["resize"])
    return Resize2d(batch=batch_of(call.args[0], fields["height"]), **fields)


def _infer_upsample2d(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    x = UPSAMPLE2D.operand(call, "x")
    rows, channels, _ = known_extents(x)
    vertical, lanes = int(call.attrs["factors"][0]), int(call.attrs["lanes"])
    return tensor_type(rows * vertical, channels, lanes, dtype=dtype_of(x))


def _infer_depth_to_space(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    x = DEPTH_TO_SPACE.operand(call, "x")
    rows, channels, _ = known_extents(x)
    high, wide = (int(extent) for extent in call.attrs["block"])
    lanes = int(call.attrs["lanes"])
    return tensor_type(rows * high, channels // (high * wide), lanes, dtype=dtype_of(x))


def _infer_bilinear2d(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    resize = resize_of(call)
    rows = resize.batch * resize.out_height
    return tensor_type(rows, resize.channels, resize.lanes_out, dtype=resize.dtype)


def _images(call: relax.Call) -> int:
    return batch_of(call.args[0], known_size(call.attrs["image"][0]))


def _upsample2d(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    width, lanes = int(call.attrs["image"][1]), int(call.attrs["lanes"])
    vertical, horizontal = (int(factor) for factor in call.attrs["factors"])
    source = panels_of(UPSAMPLE2D.operand(call, "x"), images)
    return schedules.Upsample2d(source, width, (vertical, horizontal), lanes, cpu)


def _depth_to_space(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    width, lanes = int(call.attrs["image"][1]), int(call.attrs["lanes"])
    high, wide = (int(extent) for extent in call.attrs["block"])
    source = panels_of(DEPTH_TO_SPACE.operand(call, "x"), images)
    mode = str(call.attrs["mode"])
    return schedules.DepthToSpace(source, width, (high, wide), mode, lanes, cpu)


def _bilinear2d(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    return schedules.Bilinear2d(resize_of(call), cpu)


UPSAMPLE2D = Operator(
    PREFIX + "upsample2d",
    ("x",),
    infer=_infer_upsample2d,
    stage=_upsample2d,
    images=_images,
    takes_sizes=True,
)
BILINEAR2D = Operator(
    PREFIX + "bilinear2d",
    ("x",),
    infer=_infer_bilinear2d,
    stage=_bilinear2d,
    images=lambda call: resize_of(call).batch,
    takes_sizes=True,
)
DEPTH_TO_SPACE = Operator(
    PREFIX + "depth_to_space",
    ("x",),
    infer=_infer_depth_to_space,
    stage=_depth_to_space,
    images=_images,
    takes_sizes=True,
)

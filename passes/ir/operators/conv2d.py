"""Convolutions of images in panels: ``activation(conv(x, W) + bias + residual)``.

W is sparse, dense, or has one input channel for each output channel (depthwise).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.epilogue import (
    epilogue_of,
    tiling_attributes,
    tiling_for,
    with_attributes,
)
from tvm_sparse.passes.ir.operators.layouts import IMAGE_TO_PANELS, PANELS_TO_IMAGE
from tvm_sparse.passes.ir.operators.linear import OF_NONZEROS, SPARSE_OPERANDS, sparse_density
from tvm_sparse.passes.ir.operators.operator import (
    EPILOGUE_OPERANDS,
    PREFIX,
    Operator,
    StageFor,
    batch_of,
    fields_of,
    of_any_batch,
    tensor_type,
)
from tvm_sparse.passes.ir.shapes import known_extents, lowered
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.tilings.amx_conv2d import AMX_CONV2D_FAMILY
from tvm_sparse.tilings.conv2d import CONV2D_FAMILY
from tvm_sparse.tilings.depthwise_conv2d import DEPTHWISE_CONV2D_FAMILY
from tvm_sparse.tilings.flat_conv2d import FLAT_CONV2D_FAMILY
from tvm_sparse.tilings.int8_conv2d import AMX_INT8_CONV2D_FAMILY, INT8_CONV2D_FAMILY
from tvm_sparse.tilings.joined_conv2d import JOINED_CONV2D_FAMILY
from tvm_sparse.tilings.sparse_conv2d import SPARSE_CONV2D_FAMILY


def sparse_conv2d(
    x: relax.Expr, weights: Sequence[relax.Expr], conv: Conv2d, tiling: Mapping[str, Any]
) -> relax.Call:
    """Convolve panels of images with a packed sparse weight; arguments as of `sparse_linear`."""
    return SPARSE_CONV2D.call(x, *weights, conv=of_any_batch(conv), tiling=dict(tiling))


def joined_conv2d(
    x: relax.Expr, weights: Sequence[relax.Expr], conv: Conv2d, tiling: Mapping[str, Any]
) -> relax.Call:
    """Convolve narrow images, or panels of few lanes by a 1x1 kernel; as `sparse_conv2d`."""
    return JOINED_CONV2D.call(x, *weights, conv=of_any_batch(conv), tiling=dict(tiling))


def conv2d(
    x: relax.Expr, weight: relax.Expr, conv: Conv2d, tiling: Mapping[str, Any] | None = None
) -> relax.Call:
    """Convolve panels of images with a packed dense weight; `tiling` as of `linear`."""
    return CONV2D.call(x, weight, conv=of_any_batch(conv), **tiling_attributes(tiling or {}))


def flat_conv2d(
    x: relax.Expr, weight: relax.Expr, conv: Conv2d, tiling: Mapping[str, Any] | None = None
) -> relax.Call:
    """Convolve panels of images without gaps between rows; as `conv2d`."""
    return FLAT_CONV2D.call(x, weight, conv=of_any_batch(conv), **tiling_attributes(tiling or {}))


def amx_conv2d(
    x: relax.Expr,
    weight: relax.Expr,
    distances: relax.Expr,
    conv: Conv2d,
    tiling: Mapping[str, Any] | None = None,
) -> relax.Call:
    """Convolve float16 panels of images on the matrix unit AMX.

    Parameters
    ----------
    x : relax.Expr
        Panels, ``[rows, in_channels, lanes]``, float16.
    weight, distances : relax.Expr
        The results of `pack_amx_linear` for the `matrix` of a `WordWindow`, and of its `offsets`.
    conv : Conv2d
        The convolution.
    tiling : mapping, optional
        The fields of an `AmxConv2dTiling`; the cost model chooses one if there are none.
    """
    fields = tiling_attributes(tiling or {})
    return AMX_CONV2D.call(x, weight, distances, conv=of_any_batch(conv), **fields)


def depthwise_conv2d(
    x: relax.Expr, weight: relax.Expr, conv: Conv2d, tiling: Mapping[str, Any] | None = None
) -> relax.Call:
    """Convolve each channel of panels with its own ``weight[channel]``; `tiling` as of `linear`."""
    fields = tiling_attributes(tiling or {})
    return DEPTHWISE_CONV2D.call(x, weight, conv=of_any_batch(conv), **fields)


def conv_of(call: relax.Call) -> Conv2d:
    """Return the convolution that a call computes."""
    fields, x = fields_of(call.attrs["conv"]), call.args[0]
    if is_call_to(call, JOINED_CONV2D.name) and Conv2d(batch=1, **fields).is_linear:
        rows, _, _ = known_extents(x)
        return Conv2d(batch=1, **(fields | {"height": rows}))  # all rows are one image
    return Conv2d(batch=batch_of(x, fields["height"]), **fields)


def of_height(call: relax.Call, panels: relax.Call) -> relax.Call:
    """Return the call of a kernel, chosen for a hint, for all heights of the images in `panels`."""
    if not is_call_to(panels, IMAGE_TO_PANELS.name):
        return call
    height = known_extents(panels.args[0])[2]
    if not isinstance(height, Extent) or not call.attrs or "conv" not in call.attrs:
        return call
    return with_attributes(call, conv={**call.attrs["conv"], "height": lowered(height)})


def from_image(call: relax.Call, image: relax.Expr) -> relax.Call:
    """Return a convolution that reads `image` instead of its panels."""
    _, *others = call.args
    return relax.Call(call.op, [image, *others], tvm.ir.DictAttrs(dict(call.attrs.items())))


def to_image(call: relax.Call) -> relax.Call:
    """Return a convolution whose result is the image instead of its panels."""
    return with_attributes(call, to_image=True)


def is_image(call: relax.Call) -> bool:
    """Whether the result of one of our operators is an image."""
    is_convolution = is_call_to(call, *CONVOLUTIONS) and "to_image" in call.attrs
    return is_convolution or is_call_to(call, PANELS_TO_IMAGE.name)


def infer_conv2d(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    """Return the type of a convolution's result."""
    conv = conv_of(call)
    if is_image(call):
        return tensor_type(conv.batch, conv.out_channels, conv.out_height, conv.out_width)
    rows = conv.batch * conv.out_height
    return tensor_type(rows, conv.out_channels, conv.lanes_out, dtype=conv.dtype)


def on_images(call: relax.Call) -> dict[str, bool]:
    """Return which of input and output of a convolution are images instead of panels."""
    x, *_ = call.args
    return {"reads_image": len(known_extents(x)) == 4, "writes_image": is_image(call)}


def _sparse_conv2d(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    conv, tiling = conv_of(call), tiling_for(call, SPARSE_CONV2D_FAMILY)
    taps = conv.out_channels * conv.channels * conv.kernel[0] * conv.kernel[1]
    density = sparse_density(SPARSE_CONV2D.operand(call, "values"), taps)
    return schedules.SparseConv2d(conv, tiling, epilogue_of(call), cpu, density, **on_images(call))


def _joined_conv2d(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    conv, tiling = conv_of(call), tiling_for(call, JOINED_CONV2D_FAMILY)
    if conv.is_linear:
        conv = dataclasses.replace(conv, batch=images, height=conv.height // images)
    taps = conv.out_channels * conv.channels * conv.kernel[0] * conv.kernel[1]
    density = sparse_density(JOINED_CONV2D.operand(call, "values"), taps)
    return schedules.JoinedConv2d(conv, tiling, epilogue_of(call), cpu, density)


def _conv2d(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    conv, tiling = conv_of(call), tiling_for(call, CONV2D_FAMILY)
    return schedules.DenseConv2d(conv, epilogue_of(call), cpu, tiling, **on_images(call))


def _flat_conv2d(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    conv, tiling = conv_of(call), tiling_for(call, FLAT_CONV2D_FAMILY)
    return schedules.FlatConv2d(conv, epilogue_of(call), cpu, tiling, **on_images(call))


def _amx_conv2d(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    conv, tiling = conv_of(call), tiling_for(call, AMX_CONV2D_FAMILY)
    return schedules.AmxConv2d(conv, epilogue_of(call), cpu, tiling, **on_images(call))


def _depthwise_conv2d(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    conv, tiling = conv_of(call), tiling_for(call, DEPTHWISE_CONV2D_FAMILY)
    return schedules.depthwise_stage(conv, epilogue_of(call), cpu, tiling, **on_images(call))


def _images(call: relax.Call) -> int | None:
    """Return how many images a call works on; a kernel of 1x1 works on any number."""
    conv = conv_of(call)
    return None if is_call_to(call, JOINED_CONV2D.name) and conv.is_linear else conv.batch


def _convolution(name: str, operands: tuple[str, ...], stage: StageFor) -> Operator:
    return Operator(
        PREFIX + name,
        operands,
        EPILOGUE_OPERANDS,
        infer=infer_conv2d,
        stage=stage,
        images=_images,
        takes_sizes=True,
        with_epilogue=True,
        any_length=OF_NONZEROS if operands == SPARSE_OPERANDS else (),
    )


SPARSE_CONV2D = _convolution("sparse_conv2d", SPARSE_OPERANDS, _sparse_conv2d)
JOINED_CONV2D = _convolution("joined_conv2d", SPARSE_OPERANDS, _joined_conv2d)
CONV2D = _convolution("conv2d", ("x", "weight"), _conv2d)
FLAT_CONV2D = _convolution("flat_conv2d", ("x", "weight"), _flat_conv2d)
AMX_CONV2D = _convolution("amx_conv2d", ("x", "weight", "distances"), _amx_conv2d)
DEPTHWISE_CONV2D = _convolution("depthwise_conv2d", ("x", "weight"), _depthwise_conv2d)

CONVOLUTIONS = (
    *(SPARSE_CONV2D.name, CONV2D.name, FLAT_CONV2D.name, AMX_CONV2D.name),
    DEPTHWISE_CONV2D.name,
    *(PREFIX + family.name for family in (INT8_CONV2D_FAMILY, AMX_INT8_CONV2D_FAMILY)),
)
"""The names in Relax of the convolutions that can read and write images."""

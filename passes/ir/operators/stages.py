"""Which stage of a tensor column computes a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.elementwise import activation_of
from tvm_sparse.passes.ir.shapes import static_shape
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.elementwise import BINARY
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.tilings.conv2d import CONV2D_FAMILY
from tvm_sparse.tilings.depthwise_conv2d import DEPTHWISE_CONV2D_FAMILY
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.linear import LINEAR_FAMILY
from tvm_sparse.tilings.sparse_conv2d import SPARSE_CONV2D_FAMILY
from tvm_sparse.tilings.sparse_linear import SPARSE_LINEAR_FAMILY

Builder = Callable[[relax.Call, int, CpuProfile], Stage | None]


def stage_of(call: relax.Expr, images: int, cpu: CpuProfile) -> Stage | None:
    """Return what computes a call for runs of rows of `images` images, or None if nothing does.

    Its operands have the names that `operands_of` returns.
    """
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        return None
    shape, is_image = static_shape(call), operators.is_image(call)
    if shape is None or len(shape) != 3 + is_image or call.ty.dtype != "float32":
        return None
    if shape[0] % images:
        return None
    if images_of(call) not in (None, images):
        return None
    try:
        return STAGES.get(call.op.name, _elementwise)(call, images, cpu)
    except ValueError:  # an elementwise operator that broadcasts in another way
        return None


OPERANDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (operators.SPARSE_LINEAR, operators.SPARSE_CONV2D),
        ("x", "indptr", "channels", "offsets", "values"),
    ),
    **dict.fromkeys(
        (operators.LINEAR, operators.CONV2D, operators.DEPTHWISE_CONV2D), ("x", "weight")
    ),
    operators.ATTENTION: ("q", "k", "v", "bias"),
    operators.LAYER_NORM: ("x", "gamma", "beta"),
    **dict.fromkeys(
        (
            *(operators.MAX_POOL2D, operators.AVG_POOL2D, operators.UPSAMPLE2D),
            *(operators.IMAGE_TO_PANELS, operators.PANELS_TO_IMAGE, "relax.strided_slice"),
        ),
        ("x",),
    ),
}


def operands_of(call: relax.Call) -> dict[str, relax.Expr]:
    """Return the tensors that a call reads by name, those of a tuple one by one."""
    flat: list[relax.Expr] = []
    for arg in call.args:
        flat += list(arg.fields) if isinstance(arg, relax.Tuple) else [arg]
    tensors = [arg for arg in flat if isinstance(arg.ty, relax.TensorType)]
    names = OPERANDS.get(call.op.name, tuple(f"x{i}" for i in range(len(tensors))))
    if is_call_to(call, *operators.WITH_EPILOGUE):
        names = (*names, *(name for name in ("bias", "residual") if call.attrs[name]))
    return dict(zip(names, tensors, strict=False))


def images_of(call: relax.Call) -> int | None:
    """Return how many images, or sequences, a call works on; None if it does not matter."""
    attrs = call.attrs
    if is_call_to(call, *operators.CONVOLUTIONS):
        return operators.conv_of(call).batch
    if is_call_to(call, operators.MAX_POOL2D, operators.AVG_POOL2D):
        return operators.pool_of(call).batch
    if is_call_to(call, operators.UPSAMPLE2D, operators.PANELS_TO_IMAGE):
        return int(attrs["shape"][0])
    if is_call_to(call, operators.IMAGE_TO_PANELS):
        return int(call.args[0].ty.shape[0])
    return int(attrs["batch"]) if is_call_to(call, operators.ATTENTION) else None


def panels_of(value: relax.Expr, images: int) -> Tensor:
    """Return the extents of panels."""
    rows, channels, lanes = static_shape(value) or (0, 0, 0)
    return Tensor(images, rows // images, channels, lanes)


def epilogue_of(call: relax.Call) -> Epilogue:
    """Return the epilogue of a call."""
    attrs = call.attrs
    return Epilogue(bool(attrs["bias"]), bool(attrs["residual"]), str(attrs["activation"]) or None)


def _sparse_linear(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    x, n = panels_of(call.args[0], images), int(call.attrs["channels"])
    tiling = _tiling(call, SPARSE_LINEAR_FAMILY)
    density = _slots(call) / (n * x.channels)
    return schedules.SparseLinear(
        images, x.rows, x.lanes, n, x.channels, tiling, epilogue_of(call), cpu, density
    )


def _linear(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    x, n = panels_of(call.args[0], images), int(call.attrs["channels"])
    epilogue, tiling = epilogue_of(call), _tiling(call, LINEAR_FAMILY)
    return schedules.DenseLinear(images, x.rows, x.lanes, n, x.channels, epilogue, cpu, tiling)


def _sparse_conv2d(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    tiling = _tiling(call, SPARSE_CONV2D_FAMILY)
    conv = operators.conv_of(call)
    taps = conv.out_channels * conv.channels * conv.kernel[0] * conv.kernel[1]
    density = _slots(call) / taps
    return schedules.SparseConv2d(conv, tiling, epilogue_of(call), cpu, density, **_on_images(call))


def _on_images(call: relax.Call) -> dict[str, bool]:
    """Return which of input and output of a convolution are images instead of panels."""
    reads_image = len(call.args[0].ty.shape) == 4
    return {"reads_image": reads_image, "writes_image": operators.is_image(call)}


def _tiling(call: relax.Call, family: Family[Any, Any]) -> Any:
    """Return how a call is tiled, or None if the cost model is to say."""
    return family.from_fields(call.attrs["tiling"]) if "tiling" in call.attrs else None


def _slots(call: relax.Call) -> int:
    """Return the stored non-zeros of a sparse call, whose weight's values are argument 4."""
    (slots,) = static_shape(call.args[4]) or (0,)
    return slots


def _conv2d(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    tiling = _tiling(call, CONV2D_FAMILY)
    conv, epilogue = operators.conv_of(call), epilogue_of(call)
    return schedules.DenseConv2d(conv, epilogue, cpu, tiling, **_on_images(call))


def _depthwise_conv2d(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    tiling = _tiling(call, DEPTHWISE_CONV2D_FAMILY)
    conv, epilogue = operators.conv_of(call), epilogue_of(call)
    return schedules.DepthwiseConv2d(conv, epilogue, cpu, tiling, **_on_images(call))


def _layer_norm(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    return schedules.LayerNorm(panels_of(call.args[0], images), float(call.attrs["epsilon"]), cpu)


def _attention(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    attrs = call.attrs
    return schedules.Attention(
        batch=int(attrs["batch"]),
        tokens=int(attrs["tokens"]),
        key_tokens=int(attrs["key_tokens"]),
        heads=int(attrs["heads"]),
        head_dim=int(attrs["head_dim"]),
        lanes=panels_of(call.args[0], 1).lanes,
        scale=float(attrs["scale"]),
        bias_shape=static_shape(call.args[3]) if len(call.args) > 3 else None,
        cpu=cpu,
    )


def _max_pool2d(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    return schedules.MaxPool2d(operators.pool_of(call), cpu)


def _avg_pool2d(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    return schedules.AvgPool2d(operators.pool_of(call), cpu)


def _upsample2d(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    batch, _, _, width = (int(extent) for extent in call.attrs["shape"])
    vertical, horizontal = (int(factor) for factor in call.attrs["factors"])
    source, lanes = panels_of(call.args[0], batch), int(call.attrs["lanes"])
    return schedules.Upsample2d(source, width, (vertical, horizontal), lanes, cpu)


def _image_to_panels(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    batch, channels, height, width = static_shape(call.args[0]) or (0, 0, 0, 0)
    return schedules.ImageToPanels(batch, channels, height, width, int(call.attrs["lanes"]), cpu)


def _panels_to_image(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    batch, channels, height, width = static_shape(call) or (0, 0, 0, 0)
    lanes = panels_of(call.args[0], images).lanes
    return schedules.PanelsToImage(batch, channels, height, width, lanes, cpu)


def _concat(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    if int(call.attrs["axis"]) not in (1, -2):
        raise ValueError("not a concatenation of channels")
    return schedules.Concat([panels_of(arg, images) for arg in operands_of(call).values()], cpu)


def _slice(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    axes, begin, end, *strides = ([int(v) for v in arg] for arg in call.args[1:])
    if axes not in ([1], [-2]) or any(stride != [1] for stride in strides):
        raise ValueError("not a slice of channels")
    source = panels_of(call.args[0], images)
    last = min(end[0], source.channels)
    return schedules.SliceChannels(source, begin[0], last, cpu)


def _elementwise(call: relax.Call, images: int, cpu: CpuProfile) -> Stage | None:
    operator = activation_of(call) or call.op.name.removeprefix("relax.")
    if activation_of(call) is None and operator not in BINARY:
        return None
    operands = operands_of(call).values()
    shapes = [shape for shape in map(static_shape, operands) if shape is not None]
    if len(shapes) != len(operands):
        return None
    return schedules.Elementwise(operator, panels_of(call, images), shapes, cpu)


STAGES: dict[str, Builder] = {
    operators.SPARSE_LINEAR: _sparse_linear,
    operators.LINEAR: _linear,
    operators.SPARSE_CONV2D: _sparse_conv2d,
    operators.CONV2D: _conv2d,
    operators.DEPTHWISE_CONV2D: _depthwise_conv2d,
    operators.LAYER_NORM: _layer_norm,
    operators.ATTENTION: _attention,
    operators.MAX_POOL2D: _max_pool2d,
    operators.AVG_POOL2D: _avg_pool2d,
    operators.UPSAMPLE2D: _upsample2d,
    operators.IMAGE_TO_PANELS: _image_to_panels,
    operators.PANELS_TO_IMAGE: _panels_to_image,
    "relax.concat": _concat,
    "relax.strided_slice": _slice,
}

"""The shapes that a linear layer with a constant weight has in a network.

``matmul(x, w)`` on tokens, and a convolution that looks at one pixel at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.convolution import Conv2d
from tvm_sparse.layer_kernels import Layer, Linear
from tvm_sparse.passes import operators
from tvm_sparse.passes.operators import Layout, is_call_to, static_shape
from tvm_sparse.targets import CpuProfile

Weight: TypeAlias = NDArray[np.float32]

WIDEST = 2048
"""Columns of an image from which on it is no image: YOLOv8 lists its 8400 boxes in one row."""


@dataclass(frozen=True)
class ConstantLinear:
    """A linear layer of the graph.

    Attributes
    ----------
    weight : numpy.ndarray
        `(out_channels, in_channels)` float32.
    panels : relax.Call
        What lays the layer's input out in panels.
    rows, lanes : int
        Of these panels.
    out_shape : tuple of int
        Shape of the layer's output.
    """

    weight: NDArray[np.float32]
    panels: relax.Call
    rows: int
    lanes: int
    out_shape: tuple[int, ...]

    @property
    def layer(self) -> Layer:
        """What the choice of its kernel depends on."""
        density = np.count_nonzero(self.weight) / max(self.weight.size, 1)
        return Layer(Linear(self.rows, self.lanes, *self.weight.shape), density)

    def read(self, product: relax.Expr) -> relax.Call:
        """Return the layer's output from its panels."""
        if is_call_to(self.panels, operators.IMAGE_TO_PANELS):
            return operators.panels_to_image(product, self.out_shape)
        return operators.from_panels(product, self.out_shape)


def match_constant_linear(call: relax.Call, cpu: CpuProfile) -> ConstantLinear | None:
    """Return the linear layer that `call` is, or None."""
    if is_call_to(call, "relax.nn.conv2d"):
        return _match_pointwise_conv(call, cpu)
    shape = static_shape(call)
    if not is_call_to(call, "relax.matmul") or not _is_float_with_constant(call) or shape is None:
        return None
    x, weight = call.args[0], call.args[1].value.numpy()
    x_shape = static_shape(x)
    if x_shape is None or len(x_shape) < 2 or weight.ndim != 2 or 0 in x_shape:
        return None
    layout = Layout.of(x_shape, cpu.panel_lanes(x_shape[-2]))
    return ConstantLinear(
        weight=np.ascontiguousarray(weight.T),
        panels=operators.to_panels(x, layout.lanes),
        rows=layout.rows,
        lanes=layout.lanes,
        out_shape=shape,
    )


def constant_layers(mod: tvm.IRModule, cpu: CpuProfile) -> Iterator[tuple[Layer, Weight]]:
    """Yield every layer with a constant weight of a module that does not work on panels yet."""
    for func in mod.functions.values():
        if not isinstance(func, relax.Function):
            continue
        for binding in (b for block in func.body.blocks for b in block.bindings):
            if not isinstance(binding, relax.VarBinding):
                continue
            call = binding.value
            linear = match_constant_linear(call, cpu)
            if linear is not None:
                yield linear.layer, linear.weight
                continue
            conv = match_conv2d(call, cpu)
            if conv is not None:
                weight = call.args[1].value.numpy()
                yield Layer(conv, np.count_nonzero(weight) / max(weight.size, 1)), weight


def _match_pointwise_conv(call: relax.Call, cpu: CpuProfile) -> ConstantLinear | None:
    conv = match_conv2d(call, cpu)
    if conv is None or not conv.is_linear:
        return None
    weight = call.args[1].value.numpy()
    return ConstantLinear(
        weight=weight.reshape(conv.out_channels, conv.channels),
        panels=operators.image_to_panels(call.args[0], conv.lanes_in),
        rows=conv.batch * conv.height,
        lanes=conv.lanes_in,
        out_shape=(conv.batch, conv.out_channels, conv.height, conv.width),
    )


def match_conv2d(call: relax.Call, cpu: CpuProfile) -> Conv2d | None:
    """Return the sizes of a convolution of images by a constant weight, or None."""
    if not is_call_to(call, "relax.nn.conv2d") or not _is_float_with_constant(call):
        return None
    attrs = call.attrs
    shape, weight_shape, out_shape = map(static_shape, (*call.args, call))
    layouts = (attrs["data_layout"], attrs["kernel_layout"], attrs["out_layout"])
    if (
        shape is None
        or weight_shape is None
        or out_shape is None
        or layouts != ("NCHW", "OIHW", "NCHW")
    ):
        return None
    batch, channels, height, width = shape
    if 0 in shape or width > WIDEST:
        return None
    top, left, bottom, right = (int(p) for p in attrs["padding"])
    strides = tuple(int(s) for s in attrs["strides"])
    dilation = tuple(int(d) for d in attrs["dilation"])
    return Conv2d(
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        out_channels=weight_shape[0],
        kernel=(weight_shape[2], weight_shape[3]),
        stride=(strides[0], strides[1]),
        padding=(top, left, bottom, right),
        dilation=(dilation[0], dilation[1]),
        groups=int(attrs["groups"]),
        lanes_in=cpu.image_lanes(width),
        lanes_out=cpu.image_lanes(out_shape[3]),
    )


def _is_float_with_constant(call: relax.Call) -> bool:
    x, weight = call.args
    is_float = x.ty.dtype == "float32" and weight.ty.dtype == "float32"
    return is_float and isinstance(weight, tvm.ir.GenericConst)

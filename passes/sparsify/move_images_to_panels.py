"""MoveImagesToPanels: f(panels_to_image(p)) => panels_to_image(f(p)), and the two cancel

f is an elementwise operator, a concatenation, split or slice of channels, a pooling, an
enlargement, or a mean over the image. An activation also moves across reshapes and transposes of
the image. This pass does for images ``(batch, channels, height, width)`` what `MoveToPanels` does
for tokens.

Runs after `SparsifyWeights` and `PackDenseWeights`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType, holds
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.elementwise import BINARY, UNARY
from tvm_sparse.passes.ir.operators.layouts import dtype_named, lanes_of
from tvm_sparse.passes.ir.operators.operator import dtype_of
from tvm_sparse.passes.ir.shapes import broadcast, extents_of, image_extents, known_size, reshaped
from tvm_sparse.passes.ir.view_chains import RESHAPING
from tvm_sparse.passes.sparsify.image_operators import (
    is_global_pool,
    match_bilinear,
    match_depth_to_space,
    match_pool2d,
    upsampling_factors,
)
from tvm_sparse.passes.sparsify.mover import Mover, move_all, without_views
from tvm_sparse.schedules.operators.dynamic_range import Valid
from tvm_sparse.sizes.strips import WIDEST

CHANNEL_AXIS = 1
"""The axis of the channels of panels, and of images."""

IMAGE_CHANNEL_AXES = (CHANNEL_AXIS, CHANNEL_AXIS - 4)
"""The two numbers of the axis of an image's channels, from the front and from the back."""


@tvm.transform.module_pass(opt_level=0, name="MoveImagesToPanels")
class MoveImagesToPanels:
    """Move every operator on images that can work on panels there."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its layout changes moved down and cancelled."""
        return move_all(mod, self.cpu, _Mover)


class _Mover(Mover):
    """The rules of operators on images."""

    def move(self) -> relax.Expr | None:
        """Return the expression that takes the place of the call, or None."""
        call = self.call
        if is_call_to(call, operators.FROM_STRIPS.name):
            panels, form = self._panels_of(call.args[0]), self._form_of(call.args[0])
            if panels is None and form is not None:  # what no kernel on panels computes
                panels = self._as_panels(call.args[0], form)
            return None if panels is None else relax.Call(call.op, [panels], call.attrs)
        if is_call_to(call, operators.IMAGE_TO_PANELS.name):
            return self._as_panels(call.args[0], _Form(int(call.attrs["lanes"]), dtype_named(call)))
        if is_call_to(call, "relax.split"):
            return self._split()
        if is_call_to(call, operators.DYNAMIC_RANGE.name):
            return self._range()
        shape = image_extents(call)
        if shape is None or call.ty.dtype != ACTIVATIONS:
            return None
        if is_call_to(call, "relax.concat"):
            return self._concat(shape)
        if is_call_to(call, "relax.strided_slice"):
            return self._slice(shape)
        if is_global_pool(call):
            return self._global_pool(shape)
        if is_call_to(call, "relax.nn.max_pool2d", "relax.nn.avg_pool2d"):
            return self._pool(shape)
        if is_call_to(call, "relax.image.resize2d"):
            return self._resize(shape)
        if is_call_to(call, *UNARY, *BINARY):
            return self._elementwise(shape)
        return self._depth_to_space(shape)

    def _panels_of(self, value: relax.Expr) -> relax.Expr | None:
        """Return the panels that the image `value` was read from."""
        call = self.lookup(value)
        if isinstance(call, relax.TupleGetItem):
            fields = self.lookup(call.tuple_value)
            call = self.lookup(fields[call.index]) if isinstance(fields, relax.Tuple) else call
        if not is_call_to(call, operators.PANELS_TO_IMAGE.name):
            return None
        return operators.PANELS_TO_IMAGE.operand(call, "x")

    def _range(self) -> relax.Expr | None:
        """dynamic_range(view(panels_to_image(p))) => dynamic_range(p) of the image's pixels"""
        image = without_views(self.call.args[0], self.lookup)
        panels, shape = self._panels_of(image), image_extents(image)
        if panels is None or shape is None:
            return None
        return operators.dynamic_range(panels, Valid(1, shape[3]))

    def _elementwise(self, shape: tuple[int, ...]) -> relax.Expr | None:
        """f(panels_to_image(p), q) => panels_to_image(f(p, image_to_panels(q)))"""
        # Only operands of the full shape count: weights per channel lie in panels of one pixel.
        found = [self._panels_of(arg) for arg in self.call.args if image_extents(arg) == shape]
        form = next((_Form.of(p) for p in found if p is not None), None)
        if form is None:
            return self._above_views()
        args = [self._operand(arg, shape, form) for arg in self.call.args]
        if any(arg is None for arg in args):
            return None
        moved = relax.Call(self.call.op, args, self.call.attrs)
        return operators.panels_to_image(self.emit(moved), shape)

    def _above_views(self) -> relax.Expr | None:
        """f(view(panels_to_image(p))) => view(panels_to_image(f(p)))"""
        views, value = [], self.call.args[0]
        while is_call_to(self.lookup(value), *RESHAPING, "relax.permute_dims"):
            views.append(self.lookup(value))
            value = views[-1].args[0]
        panels, shape = self._panels_of(value), image_extents(value)
        if not is_call_to(self.call, *UNARY) or panels is None or shape is None:
            return None
        moved = relax.Call(self.call.op, [panels, *self.call.args[1:]], self.call.attrs)
        result = operators.panels_to_image(self.emit(moved), shape)
        for view in reversed(views):
            result = relax.Call(view.op, [self.emit(result), *view.args[1:]], view.attrs)
        return result

    def _operand(self, value: relax.Expr, shape: tuple[int, ...], form: _Form) -> relax.Expr | None:
        """Return `value` as an operand beside panels of an image of shape `shape`, or None."""
        if not isinstance(value.ty, relax.TensorType):
            return value  # It is a scalar argument, as `clip` and `leakyrelu` have them.
        batch, channels, height, _ = shape
        own = image_extents(value)
        if own == shape:
            return self._as_panels(value, form)
        if own is None:
            return None
        if isinstance(value, tvm.ir.GenericConst) and not holds(value.value.numpy(), form.dtype):
            return None
        if math.prod(own) == 1:
            return self._reshaped(value, (), form.dtype)
        if own == (batch, channels, 1, 1) and self._panels_of(value) is not None:
            pixel = self.emit(relax.op.strided_slice(self._panels_of(value), [2], [0], [1]))
            if dtype_of(pixel) != form.dtype:
                pixel = self.emit(relax.op.astype(pixel, form.dtype))
            return self._for_rows(pixel, height)
        if own[-3:] == (channels, 1, 1) and math.prod(own) == channels:
            return self._reshaped(value, (channels, 1), form.dtype)
        if own == (batch, channels, 1, 1):
            pixel = self._reshaped(value, (batch, channels, 1), form.dtype)
            return self._for_rows(pixel, height)
        return None

    def _for_rows(self, pixels: relax.Expr, height: int) -> relax.Expr:
        """Repeat `(batch, channels, 1)` for all rows of an image; one image broadcasts."""
        batch, channels, _ = image_extents(pixels) or (0, 0, 0)
        if batch == 1:
            return pixels
        dtype = dtype_of(pixels)
        pixels = self._reshaped(pixels, (batch, 1, channels, 1), dtype)
        rows = self.emit(broadcast(pixels, (batch, height, channels, 1)))
        return self._reshaped(rows, (batch * height, channels, 1), dtype)

    def _reshaped(self, value: relax.Expr, shape: tuple[int, ...], dtype: DType) -> relax.Expr:
        """Return `value` in another shape, and with elements of type `dtype`."""
        if isinstance(value, tvm.ir.GenericConst):
            return relax.const(value.value.numpy().astype(dtype).reshape(shape))
        if dtype_of(value) != dtype:
            value = self.emit(relax.op.astype(value, dtype))
        return self.emit(reshaped(value, shape))

    def _concat(self, shape: tuple[int, ...]) -> relax.Expr | None:
        """concat(panels_to_image(p), ...) along the channels => panels_to_image(concat(p, ...))"""
        fields = self.lookup(self.call.args[0])
        if len(shape) != 4 or int(self.call.attrs["axis"]) not in IMAGE_CHANNEL_AXES:
            return None
        if not isinstance(fields, relax.Tuple):
            return None
        found = [self._panels_of(field) for field in fields]
        form = next((_Form.of(p) for p in found if p is not None), None)
        if form is None:
            return None
        panels = [self._as_panels(field, form) for field in fields]
        moved = relax.op.concat(panels, CHANNEL_AXIS)
        return operators.panels_to_image(self.emit(moved), shape)

    def _slice(self, shape: tuple[int, ...]) -> relax.Expr | None:
        """slice(panels_to_image(p)) of channels => panels_to_image(slice(p))"""
        x, axes, begin, end, *strides = self.call.args
        panels = self._panels_of(x)
        is_channels = len(axes) == 1 and int(axes[0].value) in IMAGE_CHANNEL_AXES
        if panels is None or not is_channels:
            return None
        moved = relax.op.strided_slice(panels, [CHANNEL_AXIS], begin, end, *strides)
        return operators.panels_to_image(self.emit(moved), shape)

    def _split(self) -> relax.Expr | None:
        """split(panels_to_image(p)) of channels => panels_to_image(slice(p)), ..."""
        call = self.call
        panels = self._panels_of(call.args[0])
        if panels is None or int(call.attrs["axis"]) not in IMAGE_CHANNEL_AXES:
            return None
        begin, fields = 0, []
        for field in call.ty.fields:
            shape = tuple(known_size(extent) for extent in field.shape)
            end = begin + shape[1]
            part = self.emit(relax.op.strided_slice(panels, [CHANNEL_AXIS], [begin], [end]))
            fields.append(self.emit(operators.panels_to_image(part, shape)))
            begin = end
        return relax.Tuple(fields)

    def _global_pool(self, shape: tuple[int, ...]) -> relax.Expr | None:
        """mean(panels_to_image(p)) over the image => panels_to_image(global_avg_pool2d(p))"""
        panels, image = self._panels_of(self.call.args[0]), extents_of(self.call.args[0])
        joint = self.lookup(self.call.args[0])
        pixels = operators.strips_of(joint).pixels if operators.joins_panels(joint) else 0
        panels = joint.args[0] if pixels else panels
        if panels is None or image is None:
            return None
        is_max = is_call_to(self.call, "relax.max")
        pool = operators.global_max_pool2d if is_max else operators.global_avg_pool2d
        moved = pool(panels, image[2:], self.cpu.image_lanes(1, dtype_of(panels)), pixels)
        pixel = operators.panels_to_image(self.emit(moved), (*image[:2], 1, 1))
        return pixel if len(shape) == 4 else reshaped(self.emit(pixel), shape)

    def _pool(self, shape: tuple[int, ...]) -> relax.Expr | None:
        """max_pool2d(x) => panels_to_image(max_pool2d(image_to_panels(x)))

        x may come from any operator: a pooling on panels is so much faster that it pays for the two
        layout changes.
        """
        form = self._form_of(self.call.args[0])
        pool = match_pool2d(self.call, form.lanes, self.cpu, form.dtype) if form else None
        if pool is None or form is None:
            return None
        panels = self._as_panels(self.call.args[0], form)
        is_max = is_call_to(self.call, "relax.nn.max_pool2d")
        moved = (operators.max_pool2d if is_max else operators.avg_pool2d)(panels, pool)
        return operators.panels_to_image(self.emit(moved), shape)

    def _resize(self, shape: tuple[int, ...]) -> relax.Expr | None:
        """resize2d(x) => panels_to_image(upsample2d(image_to_panels(x))), or bilinear2d"""
        image = self.call.args[0]
        form = self._form_of(image)
        factors = upsampling_factors(self.call)
        if form is None:
            return None
        if factors is not None:
            panels, size = self._as_panels(image, form), image_extents(image) or ()
            lanes = self.cpu.image_lanes(shape[3], form.dtype)
            moved = operators.upsample2d(panels, size[2:], factors, lanes)
            return operators.panels_to_image(self.emit(moved), shape)
        resize = match_bilinear(self.call, form.lanes, self.cpu, form.dtype)
        if resize is None:
            return None
        moved = operators.bilinear2d(self._as_panels(image, form), resize)
        return operators.panels_to_image(self.emit(moved), shape)

    def _depth_to_space(self, shape: tuple[int, ...]) -> relax.Expr | None:
        """view(panels_to_image(p)) => panels_to_image(depth_to_space(p))"""
        blocks = match_depth_to_space(self.call, self.lookup)
        panels = None if blocks is None else self._panels_of(blocks.image)
        if blocks is None or panels is None:
            return None
        image = image_extents(blocks.image) or ()
        lanes = self.cpu.image_lanes(shape[3], dtype_of(panels))
        moved = operators.depth_to_space(panels, image[2:], blocks.block, blocks.mode, lanes)
        return operators.panels_to_image(self.emit(moved), shape)

    def _form_of(self, image: relax.Expr) -> _Form | None:
        """Return the form of panels that hold `image`; None if it is too wide."""
        panels, shape = self._panels_of(image), image_extents(image)
        if panels is not None:
            return _Form.of(panels)
        if shape is None or len(shape) != 4 or shape[3] > WIDEST:
            return None
        return _Form(self.cpu.image_lanes(shape[3], self.cpu.activations), self.cpu.activations)

    def _as_panels(self, image: relax.Expr, form: _Form) -> relax.Expr:
        """Return panels of a form that hold `image`."""
        panels = self._panels_of(image)
        if panels is not None and _Form.of(panels) == form:
            return panels
        cut, sizes = self.lookup(image), (form.lanes, form.dtype)
        if is_call_to(cut, operators.TO_STRIPS.name):
            return self.emit(operators.strip_panels(cut, self.lookup(cut.args[0]), *sizes))
        return self.emit(operators.image_to_panels(image, *sizes))


@dataclass(frozen=True)
class _Form:
    """What panels of one image may have different: their lanes, and the type of their elements."""

    lanes: int
    dtype: DType

    @staticmethod
    def of(panels: relax.Expr) -> _Form:
        """Return the form of some panels."""
        return _Form(lanes_of(panels), dtype_of(panels))

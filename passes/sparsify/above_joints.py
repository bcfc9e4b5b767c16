"""Rules that move operators above the joints of strips: f(from_strips(y)) => from_strips(f(y))

f is elementwise, a choice or a concatenation of channels, a convolution of single pixels, an
enlargement by whole factors, or an arrangement of channels as blocks of pixels. So operators work
on the strips, and elementwise ones become epilogues. `CutWideRows` makes the joints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tvm
from tvm import relax

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to, of_channels
from tvm_sparse.passes.ir.operators.elementwise import BINARY, UNARY
from tvm_sparse.passes.ir.rewriting import Emit, Lookup
from tvm_sparse.passes.ir.shapes import broadcast, extents_of, known_extents, lowered, reshaped
from tvm_sparse.passes.ir.view_chains import RESHAPING
from tvm_sparse.passes.sparsify.image_operators import match_depth_to_space, upsampling_factors
from tvm_sparse.passes.sparsify.refusals import refusal
from tvm_sparse.sizes.extent import Extent

_CHANNEL_AXES = (1, -3)
"""The two numbers of the axis of an image's channels, from the front and from the back."""


def move_above(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """Return what takes the place of a call of a joined image, or None."""
    if is_call_to(call, *UNARY, *BINARY):
        return _elementwise(call, lookup, emit)
    if is_call_to(call, "relax.concat"):
        return _concat(call, lookup, emit)
    if is_call_to(call, "relax.reshape"):
        return _blocks(call, lookup, emit)
    joint = lookup(call.args[0]) if call.args else None
    if not is_call_to(joint, operators.FROM_STRIPS.name):
        return None
    if is_call_to(call, "relax.nn.conv2d", operators.QUANTIZED_CONV2D.name):
        return _pixels(call, joint, emit)
    if is_call_to(call, "relax.split"):
        return _split(call, joint, emit)
    if is_call_to(call, "relax.strided_slice"):
        return _slice(call, joint, emit)
    return _enlarged(call, joint, emit) if is_call_to(call, "relax.image.resize2d") else None


def _again(joint: relax.Call, strips: relax.Expr, height: int | None = None) -> relax.Call:
    """Return the joint of other strips of the same places."""
    batch, rows = operators.images_joined(joint)
    return operators.from_strips(
        strips, operators.strips_of(joint), batch, rows if height is None else height
    )


def _elementwise(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """f(view(from_strips(y)), q) => view(from_strips(f(y, q)))

    q is a scalar, a constant for each channel, a value for each channel of an image, or strips of
    the same places.
    """
    shape = extents_of(call)
    joints = [_joint(arg, lookup) for arg in call.args if extents_of(arg) == shape]
    joint = _narrowest(joints)
    if joint is None or shape is None or call.ty.dtype != ACTIVATIONS:
        return None
    args = [_operand(arg, shape, joint, lookup, emit) for arg in call.args]
    if any(arg is None for arg in args):
        return None
    joined = _again(joint, emit(relax.Call(call.op, args, call.attrs)))
    return joined if len(shape) == 4 else reshaped(emit(joined), shape)


def _joint(value: relax.Expr, lookup: Lookup) -> relax.Call | None:
    """Return the `from_strips` that a tensor of images, or of their single rows, comes from."""
    call = lookup(value)
    if is_call_to(call, *RESHAPING) and len(extents_of(value) or ()) == 3:
        inner = lookup(call.args[0])
        batch, channels, width = extents_of(value) or (0, 0, 0)
        if extents_of(call.args[0]) != (batch, channels, 1, width):
            return None
        call = inner
    return call if is_call_to(call, operators.FROM_STRIPS.name) else None


def _narrowest(joints: Sequence[relax.Call | None]) -> relax.Call | None:
    """Return the joint with the narrowest strips: those of enlarged images are wider."""
    found = [joint for joint in joints if joint is not None]
    return min(found, key=lambda joint: operators.strips_of(joint).pixels, default=None)


def _operand(
    value: relax.Expr, shape: tuple[int, ...], joint: relax.Call, lookup: Lookup, emit: Emit
) -> relax.Expr | None:
    """Return `value` as an operand beside the strips of a joint, or None."""
    if not isinstance(value.ty, relax.TensorType):
        return value  # a scalar argument, as `clip` and `leakyrelu` have them
    own = extents_of(value)
    if own == shape:
        return _alike(value, joint, lookup, emit)
    if own is None:
        return None
    if isinstance(value, tvm.ir.GenericConst):
        array = of_channels(value, shape[1], len(shape))
        if array is not None:
            return relax.const(array.reshape(-1, 1, 1) if array.ndim else array)
    elif len(own) == 4 and own == (shape[0], shape[1], 1, 1):
        return _of_strips(value, operators.strips_of(joint).count, emit)
    return None


def _of_strips(value: relax.Expr, count: int, emit: Emit) -> relax.Expr:
    """Repeat ``(batch, channels, 1, 1)`` for all strips of an image; one image broadcasts."""
    batch, channels, _, _ = known_extents(value)
    if batch == 1:
        return value
    once = emit(reshaped(value, (batch, 1, channels, 1, 1)))
    each = emit(broadcast(once, (batch, count, channels, 1, 1)))
    return emit(reshaped(each, (batch * count, channels, 1, 1)))


def _alike(value: relax.Expr, joint: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """Return the strips of `value`, images of the size of a joint, cut in its places.

    Images of open width are cut again if they were cut in other places.
    """
    found, strips = _joint(value, lookup), operators.strips_of(joint)
    if found is not None and operators.images_joined(found) == operators.images_joined(joint):
        own = operators.strips_of(found)
        if (own.count, own.pixels) == (strips.count, strips.pixels):
            return found.args[0]
    if not isinstance(strips.out_width, Extent) or value.ty.dtype != ACTIVATIONS:
        return None
    width = strips.out_width
    places = dataclasses.replace(
        strips, step=strips.pixels, left=0, span=strips.pixels, width=width
    )
    return emit(operators.to_strips(value, places))


def _concat(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """concat(from_strips(y), ...) along the channels => from_strips(concat(y, ...))"""
    fields, axis = lookup(call.args[0]), call.attrs["axis"]
    if not isinstance(fields, relax.Tuple) or axis is None or int(axis) not in _CHANNEL_AXES:
        return None
    joints = [_joint(field, lookup) for field in fields if len(extents_of(field) or ()) == 4]
    joint = _narrowest(joints)
    if joint is None or len(joints) < len(fields) or call.ty.dtype != ACTIVATIONS:
        return None
    strips = [_alike(field, joint, lookup, emit) for field in fields]
    if any(one is None for one in strips):
        return None
    return _again(joint, emit(relax.op.concat(strips, 1)))


def _split(call: relax.Call, joint: relax.Call, emit: Emit) -> relax.Expr | None:
    """split(from_strips(y)) of channels => from_strips(slice(y)), ..."""
    if int(call.attrs["axis"]) not in _CHANNEL_AXES:
        return None
    begin, fields = 0, []
    for field in call.ty.fields:
        end = begin + int(field.shape[1])
        part = emit(relax.op.strided_slice(joint.args[0], [1], [begin], [end]))
        fields.append(emit(_again(joint, part)))
        begin = end
    return relax.Tuple(fields)


def _slice(call: relax.Call, joint: relax.Call, emit: Emit) -> relax.Expr | None:
    """slice(from_strips(y)) of channels => from_strips(slice(y))"""
    _, axes, *bounds = call.args
    if len(axes) != 1 or int(axes[0].value) not in _CHANNEL_AXES:
        return None
    return _again(joint, emit(relax.op.strided_slice(joint.args[0], [1], *bounds)))


def _pixels(call: relax.Call, joint: relax.Call, emit: Emit) -> relax.Expr | None:
    """conv(from_strips(y)) => from_strips(conv(y)), where conv sees one pixel of a row"""
    weight, attrs = call.args[1], call.attrs
    if not isinstance(weight, tvm.ir.GenericConst) or refusal(call, of_any_width=True):
        return None
    padding = [int(n) for n in attrs["padding"]]
    if int(attrs["strides"][1]) != 1 or known_extents(weight)[3] != 1 or padding[1] or padding[3]:
        return None
    product = emit(relax.Call(call.op, [joint.args[0], *call.args[1:]], attrs))
    return _again(joint, product, known_extents(call)[2])


def _enlarged(call: relax.Call, joint: relax.Call, emit: Emit) -> relax.Expr | None:
    """resize2d(from_strips(y)) => from_strips(resize2d(y)), where each pixel is repeated"""
    factors = upsampling_factors(call)
    if factors is None:
        return None
    high, wide = factors
    lines, pixels = known_extents(joint.args[0])[2:]
    size = relax.ShapeExpr([lowered(lines * high), lowered(pixels * wide)])
    larger = emit(relax.Call(call.op, [joint.args[0], size], call.attrs))
    return _of_larger(joint, larger, factors)


def _blocks(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """depth_to_space(from_strips(y)) => from_strips(depth_to_space(y))"""
    blocks = match_depth_to_space(call, lookup)
    if blocks is None:
        return None
    joint = lookup(blocks.image)
    if not is_call_to(joint, operators.FROM_STRIPS.name):
        return None
    (strips,), (high, wide) = joint.args, blocks.block
    batch, channels, lines, pixels = known_extents(strips)
    planes = channels // (high * wide)
    is_first = blocks.mode == "DCR"
    parts = (high, wide, planes) if is_first else (planes, high, wide)
    order = [0, 3, 4, 1, 5, 2] if is_first else [0, 1, 4, 2, 5, 3]
    parted = emit(reshaped(strips, (batch, *parts, lines, pixels)))
    turned = emit(relax.op.permute_dims(parted, order))
    larger = emit(reshaped(turned, (batch, planes, lines * high, pixels * wide)))
    return _of_larger(joint, larger, blocks.block)


def _of_larger(joint: relax.Call, strips: relax.Expr, factors: tuple[int, int]) -> relax.Call:
    """Return the joint of strips that are larger by whole factors."""
    (batch, height), own = operators.images_joined(joint), operators.strips_of(joint)
    high, wide = factors
    out = dataclasses.replace(own, pixels=own.pixels * wide, out_width=own.out_width * wide)
    return operators.from_strips(strips, out, batch, height * high)

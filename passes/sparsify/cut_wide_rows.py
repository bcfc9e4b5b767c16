"""CutWideRows: conv(x, w) => from_strips(conv(to_strips(x), w))

and then f(from_strips(y)) => from_strips(f(y)), where f is elementwise.

A convolution of one axis, such as of sound, has a single row of thousands of positions. Its threads
need parts of it, and a part's inputs shall stay in the L1 cache. So rows are cut into strips, each
with the pixels beside it that it sees, and a strip becomes an image of the batch. Elementwise
operators move above the joint, where they become epilogues. `conv1d` is a convolution of images of
one row.

Runs before `MeasureSparsity`.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.elementwise import BINARY, UNARY
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import extents_of, known_extents, known_size, reshaped
from tvm_sparse.passes.ir.view_chains import RESHAPING
from tvm_sparse.passes.sparsify.constant_layers import refusal
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.strips import WIDEST, WIDEST_SINGLE, Strips

STRIPS_OF_CORE = 4
"""Strips for each core that a row should be cut into, so that cores wait little for one another."""


@tvm.transform.module_pass(opt_level=0, name="CutWideRows")
class CutWideRows:
    """Cut the rows of wide images, and of convolutions of one axis, into strips."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its wide convolutions on strips."""

        def rewrite(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
            if is_call_to(call, "relax.nn.conv1d", "relax.nn.conv2d"):
                return _cut(call, emit, self.cpu)
            if is_call_to(call, *UNARY, *BINARY):
                return _move_above(call, lookup, emit)
            return None

        return rewrite_calls(mod, rewrite)


def _cut(call: relax.Call, emit: Emit, cpu: CpuProfile) -> relax.Expr | None:
    x, weight = call.args
    if not isinstance(weight, tvm.ir.GenericConst) or refusal(call):
        return None
    shape, out_shape = known_extents(x), known_extents(call)
    is_line = is_call_to(call, "relax.nn.conv1d")
    strides, dilation, padding = (
        [int(n) for n in call.attrs[name]] for name in ("strides", "dilation", "padding")
    )
    array = weight.value.numpy()
    if is_line:
        strides, dilation, array = [1, *strides], [1, *dilation], array[:, :, None]
        padding = [0, padding[0], 0, padding[1]]
    height, width = (1, shape[2]) if is_line else shape[2:]
    out_height, out_width = (1, out_shape[2]) if is_line else out_shape[2:]
    is_single = height == 1
    if isinstance(height, Extent):
        return None
    if not is_line and width <= (WIDEST_SINGLE if is_single else WIDEST):
        return None
    top, left, bottom, _ = padding
    strips = Strips.of(
        width,
        out_width,
        left,
        strides[1],
        (array.shape[3] - 1) * dilation[1] + 1,
        STRIPS_OF_CORE * cpu.cores if is_single else 1,
    )
    image = emit(reshaped(x, (*shape[:2], 1, width))) if is_line else x
    product = relax.op.nn.conv2d(
        emit(operators.to_strips(image, strips)),
        relax.const(array),
        strides=tuple(strides),
        padding=(top, 0, bottom, 0),
        dilation=tuple(dilation),
        groups=int(call.attrs["groups"]),
    )
    joined = operators.from_strips(emit(product), strips, shape[0], out_height)
    return reshaped(emit(joined), out_shape) if is_line else joined


def _move_above(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """f(view(from_strips(y)), q) => view(from_strips(f(y, q)))

    q is a scalar, a constant for each channel, or strips of the same places.
    """
    shape = extents_of(call)
    joints = [_joint(arg, lookup) for arg in call.args if extents_of(arg) == shape]
    joint = next((found for found in joints if found is not None), None)
    if joint is None or shape is None or call.ty.dtype != ACTIVATIONS:
        return None
    args = [_operand(arg, shape, joint, lookup) for arg in call.args]
    if any(arg is None for arg in args):
        return None
    moved = emit(relax.Call(call.op, args, call.attrs))
    batch, height = known_size(joint.attrs["batch"]), int(joint.attrs["height"])
    joined = operators.from_strips(moved, operators.strips_of(joint), batch, height)
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


def _operand(
    value: relax.Expr, shape: tuple[int, ...], joint: relax.Call, lookup: Lookup
) -> relax.Expr | None:
    """Return `value` as an operand beside the strips of a joint, or None."""
    if not isinstance(value.ty, relax.TensorType):
        return value  # a scalar argument, as `clip` and `leakyrelu` have them
    own = extents_of(value)
    if own == shape:
        found = _joint(value, lookup)
        if found is not None and _alike(found, joint):
            return found.args[0]
        return None
    if not isinstance(value, tvm.ir.GenericConst) or own is None:
        return None
    if math.prod(own) == 1:
        return relax.const(value.value.numpy().reshape(()))
    channels = shape[1]
    behind = len(shape) - 2  # axes of an image behind its channels
    if own[-1 - behind :] == (channels, *[1] * behind) and math.prod(own) == channels:
        return relax.const(value.value.numpy().reshape(channels, 1, 1))
    return None


def _alike(a: relax.Call, b: relax.Call) -> bool:
    """Whether two joints cut images in the same places."""
    (x, y), (of_a, of_b) = (map(operators.strips_of, (a, b)), (a.attrs, b.attrs))
    same = all(known_size(of_a[name]) == known_size(of_b[name]) for name in ("batch", "height"))
    return same and (x.count, x.pixels, x.out_width) == (y.count, y.pixels, y.out_width)

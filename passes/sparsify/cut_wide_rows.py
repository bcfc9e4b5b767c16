"""CutWideRows: conv(x, w) => from_strips(conv(to_strips(x), w)), and so poolings

and then f(from_strips(y)) => from_strips(f(y)), see `above_joints`.

A convolution of one axis, such as of sound, has a single row of thousands of positions. Its threads
need parts of it, and a part's inputs shall stay in the L1 cache. So rows are cut into strips, each
with the pixels beside it that it sees, and a strip becomes an image of the batch. `conv1d` is a
convolution of images of one row.

Images whose width only an inference knows are cut, too: their strips have a width that kernels are
made for, and an inference has as many strips as it needs.

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
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import extents_of, is_symbolic, known_extents, reshaped
from tvm_sparse.passes.ir.view_chains import RESHAPING
from tvm_sparse.passes.sparsify.above_joints import move_above
from tvm_sparse.passes.sparsify.refusals import refusal
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.strips import PREFERRED, WIDEST, WIDEST_SINGLE, Strips

STRIPS_OF_CORE = 4
"""Strips for each core that a row should be cut into, so that cores wait little for one another."""

_POOLS = ("relax.nn.max_pool2d", "relax.nn.avg_pool2d")


@tvm.transform.module_pass(opt_level=0, name="CutWideRows")
class CutWideRows:
    """Cut the rows of wide images and of images of any width, and of convolutions of one axis."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its wide convolutions on strips."""

        def rewrite(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
            moved = move_above(call, lookup, emit)
            if moved is not None:
                return moved
            if is_call_to(call, "relax.nn.conv1d", "relax.nn.conv2d"):
                return _cut(call, lookup, emit, self.cpu)
            if is_call_to(call, operators.QUANTIZED_CONV2D.name):
                return _cut_quantized(call, lookup, emit, self.cpu)
            return _cut_pool(call, emit) if is_call_to(call, *_POOLS) else None

        return rewrite_calls(mod, rewrite)


def _cut(call: relax.Call, lookup: Lookup, emit: Emit, cpu: CpuProfile) -> relax.Expr | None:
    x, weight = call.args
    if not isinstance(weight, tvm.ir.GenericConst) or refusal(call, of_any_width=True):
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
    is_single, is_open = height == 1, isinstance(width, Extent)
    if isinstance(height, Extent) and not is_open:
        return None
    if not is_line and not is_open and width <= (WIDEST_SINGLE if is_single else WIDEST):
        return None
    top, left, bottom, _ = padding
    window = left, strides[1], (array.shape[3] - 1) * dilation[1] + 1
    least = STRIPS_OF_CORE * cpu.cores if is_single else 1
    strips = (
        Strips.of_any_width(width, out_width, *window, PREFERRED if is_line else None)
        if is_open
        else Strips.of(width, out_width, *window, least)
    )
    image = _of_one_row(x, lookup, emit) if is_line else x
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


def _of_one_row(line: relax.Expr, lookup: Lookup, emit: Emit) -> relax.Expr:
    """Return ``(batch, channels, width)`` as images of one row, such as joints of strips are."""
    batch, channels, width = known_extents(line)
    shape, view = (batch, channels, 1, width), lookup(line)
    if is_call_to(view, *RESHAPING) and extents_of(view.args[0]) == shape:
        return view.args[0]
    return emit(reshaped(line, shape))


def _cut_quantized(
    call: relax.Call, lookup: Lookup, emit: Emit, cpu: CpuProfile
) -> relax.Expr | None:
    """Cut the images of a quantized convolution; zeros are rounded to zeros."""
    x, values, scale = call.args[:3]
    shape, out_shape = known_extents(x), known_extents(call)
    is_single, is_open = shape[2] == 1, isinstance(shape[3], Extent)
    if not is_open and shape[3] <= (WIDEST_SINGLE if is_single else WIDEST):
        return None
    line = lookup(x).args[0] if is_call_to(lookup(x), *RESHAPING) else x
    is_line = len(extents_of(line) or ()) == 3
    if is_line:
        x = _of_one_row(line, lookup, emit)
    attributes = {
        name: call.attrs[name] if name == "groups" else [int(n) for n in call.attrs[name]]
        for name in operators.CONV_ATTRIBUTES
    }
    top, left, bottom, _ = attributes["padding"]
    reach = (known_extents(values)[3] - 1) * attributes["dilation"][1] + 1
    window = left, attributes["strides"][1], reach
    sizes = shape[3], out_shape[3], *window
    strips = (
        Strips.of_any_width(*sizes, PREFERRED if is_line else None)
        if is_open
        else Strips.of(*sizes, STRIPS_OF_CORE * cpu.cores if is_single else 1)
    )
    cut = emit(operators.to_strips(x, strips))
    attributes["padding"] = [top, 0, bottom, 0]
    steps = operators.run_time_steps_of(call) or operators.steps_of(call)
    product = emit(operators.quantized_conv2d(cut, values, scale, steps, attributes))
    return operators.from_strips(product, strips, shape[0], out_shape[2])


def _cut_pool(call: relax.Call, emit: Emit) -> relax.Expr | None:
    """Cut the images of a pooling whose width is open."""
    (x,), attrs = call.args, call.attrs
    shape, out_shape = extents_of(x), extents_of(call)
    if shape is None or out_shape is None or is_symbolic(shape[1:2]):
        return None
    if not isinstance(shape[3], Extent) or call.ty.dtype != ACTIVATIONS:
        return None
    if (attrs["layout"], attrs["out_layout"]) != ("NCHW", "NCHW"):
        return None
    (top, left, bottom, right), is_max = map(int, attrs["padding"]), is_call_to(call, _POOLS[0])
    is_counted = bool(attrs["count_include_pad"]) and not attrs["ceil_mode"]
    if not is_max and not is_counted and (left or right or attrs["ceil_mode"]):
        return None  # it divides by the number of pixels inside the image
    sizes, strides, dilation = (
        tuple(int(n) for n in attrs[name]) for name in ("pool_size", "strides", "dilation")
    )
    reach = (sizes[1] - 1) * dilation[1] + 1
    strips = Strips.of_any_width(shape[3], out_shape[3], left, strides[1], reach)
    cut = emit(operators.to_strips(x, strips, beside=-math.inf if is_max else 0.0))
    options = {"ceil_mode": bool(attrs["ceil_mode"])}
    options |= {"count_include_pad": bool(attrs["count_include_pad"])}
    pool = relax.op.nn.max_pool2d if is_max else relax.op.nn.avg_pool2d
    pooled = pool(cut, sizes, strides, (top, 0, bottom, 0), dilation, **options)
    return operators.from_strips(emit(pooled), strips, shape[0], out_shape[2])

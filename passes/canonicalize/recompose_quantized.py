"""dequantize(quantize(x)) => fake_quantize(x); matmul(fake_quantize(x), dequantize(w)) => one call

The call is a `quantized_matmul`, or a `quantized_conv2d` for a convolution; one of a single axis is
one of images of one row. Both keep the integers of the weight. All other constants become the
floats that they stand for. The scales and zero points of activations are single numbers: constants,
or what an inference computes.

Rounding moves down the graph: it commutes with whatever keeps the order of numbers and moves them
as they are, such as poolings, transposes and ReLU, and doing it twice changes nothing. So it meets
the layers, which round their own input, and mostly vanishes.

Runs before constants are folded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.formats.quantization import Quantization, dequantized
from tvm_sparse.passes.canonicalize.quantized_weights import arrays_of, weight_of
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.quantized import DEQUANTIZE, QUANTIZE, QUANTIZING
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.run_time_steps import steps_of_parts
from tvm_sparse.passes.ir.shapes import (
    extents_of,
    is_image_shape,
    is_symbolic,
    known_extents,
    reshaped,
    static_shape,
)
from tvm_sparse.passes.ir.view_chains import RESHAPING
from tvm_sparse.sizes.conv2d import WIDEST_KERNEL

TRANSPOSE = "relax.permute_dims"
MOVING = (*RESHAPING, TRANSPOSE, *(f"relax.nn.max_pool{rank}d" for rank in (1, 2, 3)))
"""Operators of one tensor that do the same to integers as to the numbers that they stand for."""
COMMUTING = (*MOVING, "relax.nn.relu")
"""Operators of one tensor whose result, for rounded numbers, is the rounded result."""

_LAYERS = {"relax.matmul": (1, 2), "relax.nn.conv1d": (0, 3), "relax.nn.conv2d": (0, 4)}
"""Operators with weights: the axis of a weight's output channels, and its rank."""
_BYTES = "uint8", "int8"
_LAYOUTS = ("NCHW", "OIHW", "NCHW"), ("NCW", "OIW", "NCW")


@tvm.transform.module_pass(opt_level=0, name="RecomposeQuantized")
class RecomposeQuantized:
    """Recompose quantized layers and the rounding of tensors."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without `quantize` and `dequantize` of known scales."""
        return rewrite_calls(_share(rewrite_calls(mod, _recompose)), _fold)


def is_quantized(mod: tvm.IRModule) -> bool:
    """Return whether a module, as it was imported, has quantized tensors."""
    found: list[bool] = []

    def visit(expr: relax.Expr) -> None:
        found.append(is_call_to(expr, *QUANTIZING))

    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func, visit)
    return any(found)


def _recompose(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    if is_call_to(call, DEQUANTIZE):
        return _round(call, lookup, emit)
    if is_call_to(call, *_LAYERS):
        layer = _layer(call, lookup, emit)
        return _dynamic_layer(call, lookup, emit) if layer is None else layer
    return None


def _round(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """dequantize(f(quantize(x, s, z)), s, z) => fake_quantize(f(x)); f only moves integers"""
    path, inner = _above(call.args[0], lookup, MOVING)
    if not is_call_to(inner, *QUANTIZING) or call.ty.dtype != ACTIVATIONS:
        return None
    steps, of_floats = _steps(inner, lookup), _steps(call, lookup)
    if steps is None or of_floats is None or not steps.stands_for_same(of_floats):
        return None
    if inner.args[0].ty.dtype != ACTIVATIONS:
        return None
    x = _unrounded(_again(path, inner.args[0], emit), steps, lookup, emit)
    relu = lookup(x)
    if is_call_to(relu, "relax.nn.relu") and steps.low == steps.zero_point:
        x = relu.args[0]
    return operators.fake_quantize(x, steps)


def _steps(call: relax.Call, lookup: Lookup) -> Quantization | None:
    """Return the numbers that a call rounds to, if they are single constants."""
    _, *numbers = (lookup(arg) for arg in call.args)
    if not all(isinstance(n, tvm.ir.GenericConst) and n.value.numpy().size == 1 for n in numbers):
        return None
    scale, zero_point = (n.value.numpy().reshape(-1)[0] for n in numbers)
    is_dequantize = is_call_to(call, DEQUANTIZE)
    integers = str(call.args[0].ty.dtype if is_dequantize else call.ty.dtype)
    if integers not in ("int8", "uint8", "int16", "uint16"):
        return None
    if not (np.isfinite(scale) and scale > 0 and np.isfinite(np.float32(1) / np.float32(scale))):
        return None
    bounds = np.iinfo(integers)
    tie = int(zero_point) % 2 if is_call_to(call, operators.QUANTIZE_TO_EVEN.name) else 0
    return Quantization(float(scale), int(zero_point), int(bounds.min), int(bounds.max), tie)


def _unrounded(x: relax.Expr, steps: Quantization, lookup: Lookup, emit: Emit) -> relax.Expr:
    """Return a tensor that is about to be rounded without the same rounding further up."""
    path, rounding = _above(x, lookup, COMMUTING)
    if not is_call_to(rounding, operators.FAKE_QUANTIZE.name):
        return x
    if operators.steps_of(rounding) != steps:
        return x
    return _again(path, rounding.args[0], emit)


def _above(
    value: relax.Expr, lookup: Lookup, names: Sequence[str]
) -> tuple[list[relax.Call], relax.Expr]:
    """Return the chain of calls of one tensor that ends in `value`, and what stands above it."""
    path: list[relax.Call] = []
    while is_call_to(lookup(value), *names):
        path.append(lookup(value))
        value = path[-1].args[0]
    return path, lookup(value)


def _again(path: Sequence[relax.Call], value: relax.Expr, emit: Emit) -> relax.Expr:
    """Return the result of a chain from `_above` for another tensor."""
    for step in reversed(path):
        value = emit(relax.Call(step.op, [value, *step.args[1:]], step.attrs))
    return value


def _rounding_of(x: relax.Expr, lookup: Lookup) -> Quantization | None:
    """Return the numbers that a tensor consists of, if it was rounded."""
    _, call = _above(x, lookup, COMMUTING)
    if is_call_to(call, DEQUANTIZE):
        return _steps(call, lookup)
    is_rounded = is_call_to(call, operators.FAKE_QUANTIZE.name)
    return operators.steps_of(call) if is_rounded else None


def _layer(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """matmul(fake_quantize(x), dequantize(w)) => quantized_matmul(x, w)"""
    steps, weight = _rounding_of(call.args[0], lookup), _layer_weight(call, lookup)
    if steps is None or not steps.has_byte or weight is None:
        return None
    x = _unrounded(call.args[0], steps, lookup, emit)
    return _on_integers(call, x, weight, steps, emit)


def _dynamic_layer(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """matmul(dequantize(quantize(x, s, z), s, z), dequantize(w)) => quantized_matmul(x, w, (s, z))

    s and z are numbers that are known when the model runs.
    """
    outer = _above(call.args[0], lookup, MOVING)
    if not is_call_to(outer[1], DEQUANTIZE):
        return None
    path, inner = _above(outer[1].args[0], lookup, MOVING)
    weight = _layer_weight(call, lookup)
    if weight is None or not is_call_to(inner, QUANTIZE) or inner.ty.dtype not in _BYTES:
        return None
    x, scale, zero = inner.args
    are_same = all(a.same_as(b) for a, b in zip(outer[1].args[1:], (scale, zero), strict=True))
    sizes = [static_shape(number) for number in (scale, zero)]
    if not are_same or any(size is None or np.prod(size) != 1 for size in sizes):
        return None
    if any(t.ty.dtype != ACTIVATIONS for t in (x, scale, outer[1])):
        return None
    steps = steps_of_parts(x, scale, zero, lookup, emit)
    return _on_integers(call, _again([*outer[0], *path], x, emit), weight, steps, emit)


def _on_integers(
    call: relax.Call,
    x: relax.Expr,
    weight: tuple[NDArray[Any], NDArray[np.float32]],
    steps: operators.Steps,
    emit: Emit,
) -> relax.Call:
    """Return a layer as one of integers that rounds `x` itself."""
    values, scales = weight
    if is_call_to(call, "relax.matmul"):
        return operators.quantized_matmul(x, relax.const(values), relax.const(scales), steps)
    attributes = {name: call.attrs[name] for name in operators.CONV_ATTRIBUTES}
    if is_call_to(call, "relax.nn.conv2d"):
        constants = relax.const(values), relax.const(scales)
        return operators.quantized_conv2d(x, *constants, steps, attributes)
    for name in ("strides", "dilation"):
        attributes[name] = [1, *(int(n) for n in attributes[name])]
    left, right = (int(n) for n in attributes["padding"])
    attributes["padding"] = [0, left, 0, right]
    batch, channels, width = known_extents(x)
    row = emit(reshaped(x, (batch, channels, 1, width)))
    constants = relax.const(values[:, :, None]), relax.const(scales)
    product = operators.quantized_conv2d(row, *constants, steps, attributes)
    return reshaped(emit(product), known_extents(call))


def _layer_weight(call: relax.Call, lookup: Lookup) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the values of a layer's weight and the scale of each output channel, or None.

    None says that the layer has no kernel of integers.
    """
    weight = weight_of(call.args[1], lookup)
    if weight is None or not _has_kernel(call):
        return None
    values, scale = weight
    axis, rank = _LAYERS[call.op.name]
    channels = values.shape[axis] if values.ndim == rank else 0
    per_channel = [1] * rank
    per_channel[axis] = channels
    if values.ndim != rank or scale.shape not in ((), tuple(per_channel)):
        return None
    scales = np.ascontiguousarray(np.broadcast_to(scale.reshape(-1), channels))
    return np.ascontiguousarray(values), scales


def _has_kernel(call: relax.Call) -> bool:
    """Whether the kernels of constant weights compute a layer of such sizes."""
    shape = extents_of(call.args[0])
    if shape is None or 0 in shape or call.ty.dtype != ACTIVATIONS or extents_of(call) is None:
        return False
    if is_call_to(call, "relax.matmul"):
        return not is_symbolic(shape[-1:])
    if not is_image_shape((*shape[:-1], 1)):
        return False
    attrs = call.attrs
    layouts = attrs["data_layout"], attrs["kernel_layout"], attrs["out_layout"]
    is_narrow = (static_shape(call.args[1]) or (WIDEST_KERNEL + 1,))[-1] <= WIDEST_KERNEL
    return layouts in _LAYOUTS and int(attrs["groups"]) == 1 and is_narrow


def _share(mod: tvm.IRModule) -> tvm.IRModule:
    """fake_quantize(x) for several readers, also for layers, which round it a second time.

    They may read it in another shape. A rounded tensor that something else reads, too, is then the
    only reader of x, so that it can join the epilogue of the layer that computes x.
    """
    seen: set[tuple[relax.Expr, Quantization]] = set()

    def visit(expr: relax.Expr) -> None:
        if is_call_to(expr, operators.FAKE_QUANTIZE.name):
            seen.add((expr.args[0], operators.steps_of(expr)))

    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func, visit)

    def share(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
        if is_call_to(call, operators.FAKE_QUANTIZE.name):
            return emit(call)  # the variable that a layer made before, if one did
        if not is_call_to(call, *operators.QUANTIZED) or operators.run_time_steps_of(call):
            return None
        x, steps = call.args[0], operators.steps_of(call)
        path, _ = _above(x, lookup, RESHAPING)
        source = path[-1].args[0] if path else x
        if (source, steps) not in seen:
            return None
        rounded = _again(path, emit(operators.fake_quantize(source, steps)), emit)
        return relax.Call(call.op, [rounded, *call.args[1:]], call.attrs)

    return rewrite_calls(mod, share)


def _fold(call: relax.Call, lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    """dequantize(c) => the constant that c stands for"""
    if not is_call_to(call, DEQUANTIZE) or call.ty.dtype != ACTIVATIONS:
        return None
    arrays = arrays_of(call, lookup)
    if arrays is None or arrays[0].dtype.kind not in "iu":
        return None
    values, scale, zero_point = arrays
    return relax.const(dequantized(values, scale, zero_point, int(call.attrs.axis)))

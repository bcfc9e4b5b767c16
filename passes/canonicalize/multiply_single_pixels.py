"""conv2d(x, w) => reshape(matmul(reshape(x, (batch, inputs)), w), (batch, channels, 1, 1))

A convolution that sees a whole image at once has one pixel as its result, and is a product of as
many rows as there are images. Kernels of images would leave all lanes of a panel idle but one. What
follows element by element moves above the reshape, so that it stays with the product.

Small weights stay with their image: a product costs layout changes. So do pixels that meet larger
images again, such as the factors of squeeze-and-excitation, which panels of images hold already.
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.passes.ir.dataflow import Dataflow, dataflow_blocks
from tvm_sparse.passes.ir.expressions import is_call_to, of_channels
from tvm_sparse.passes.ir.operators.elementwise import BINARY, UNARY
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls, rewrite_layers
from tvm_sparse.passes.ir.shapes import static_shape
from tvm_sparse.passes.ir.view_chains import RESHAPING

LEAST_WEIGHTS = 1 << 16
"""Weights of a layer for which a product gains more than the layout changes around it cost: some
microseconds of a core."""

_CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d")


@tvm.transform.module_pass(opt_level=0, name="MultiplySinglePixels")
class MultiplySinglePixels:
    """Make products of convolutions that see a whole image at once."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its convolutions of single pixels as products."""
        layers = {
            var.name
            for block in dataflow_blocks(mod)
            for var, value in block.bound.items()
            if _sees_whole_image(value) and _stays_a_pixel(var, block)
        }

        def multiply(call: relax.Call, name: str, emit: Emit) -> relax.Expr | None:
            return _multiply(call, name, emit) if name in layers else None

        return rewrite_calls(rewrite_layers(mod, multiply), _sink) if layers else mod


def _sees_whole_image(call: relax.Expr) -> bool:
    """Return whether a call is a convolution by a constant, of one pixel of all channels."""
    if not is_call_to(call, *_CONVOLUTIONS):
        return False
    shape, weight_shape, out_shape = map(static_shape, (*call.args, call))
    if shape is None or weight_shape is None or out_shape is None:
        return False
    return (
        isinstance(call.args[1], tvm.ir.GenericConst)
        and call.ty.dtype == ACTIVATIONS
        and shape[1:] == weight_shape[1:]
        and math.prod(out_shape[2:]) == 1
        and not any(map(int, call.attrs["padding"]))
        and str(call.attrs["data_layout"]) in ("NCW", "NCHW")
        and str(call.attrs["kernel_layout"]) in ("OIW", "OIHW")
        and math.prod(weight_shape) >= LEAST_WEIGHTS
    )


def _stays_a_pixel(var: relax.Var, block: Dataflow) -> bool:
    """Return whether what is computed from a pixel is of one pixel, until it is no image."""
    todo = [var]
    while todo:
        for reader in block.readers.get(todo.pop(), ()):
            call = block.lookup(reader)
            if is_call_to(call, *RESHAPING, "relax.permute_dims"):
                continue
            shape = static_shape(reader)
            if shape is None or math.prod(shape[2:]) != 1:
                return False
            todo.append(reader)
    return True


def _multiply(call: relax.Call, name: str, emit: Emit) -> relax.Expr | None:
    if not _sees_whole_image(call):
        return None
    x, weight = call.args
    array = weight.value.numpy()
    matrix = np.ascontiguousarray(array.reshape(array.shape[0], -1).T)
    batch, *rest = static_shape(call) or ()
    rows = emit(relax.op.reshape(x, (batch, matrix.shape[0])))
    product = emit(relax.op.matmul(rows, relax.const(matrix)), name)
    return relax.op.reshape(product, (batch, *rest))


def _sink(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """f(reshape(x, (batch, channels, 1, 1)), c) => reshape(f(x, c), (batch, channels, 1, 1))"""
    if not is_call_to(call, *UNARY, *BINARY):
        return None
    view, shape = lookup(call.args[0]), static_shape(call)
    if shape is None or not is_call_to(view, "relax.reshape") or len(shape) < 3:
        return None
    rows, pixels = static_shape(view.args[0]), static_shape(view)
    if pixels != shape or rows != shape[:2] or math.prod(shape[2:]) != 1:
        return None
    others = [_of_rows(other, shape) for other in call.args[1:]]
    if any(other is None for other in others):
        return None
    moved = relax.Call(call.op, [view.args[0], *others], call.attrs)
    return relax.op.reshape(emit(moved), shape)


def _of_rows(value: relax.Expr, shape: tuple[int, ...]) -> relax.Expr | None:
    """Return an operand beside pixels as one beside rows, or None."""
    if not isinstance(value.ty, relax.TensorType):
        return value  # It is a scalar argument, as `clip` has them.
    if not isinstance(value, tvm.ir.GenericConst):
        return None
    array = of_channels(value, shape[1], len(shape))
    return None if array is None else relax.const(array)

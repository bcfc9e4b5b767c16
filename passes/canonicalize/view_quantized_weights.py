"""view(dequantize(w, s, z)) => dequantize(view(w), s, z), where w is a constant of 8 bits

and take(dequantize(w, s, z), i) => dequantize(take(w, i), s, z).

Exporters transpose and reshape a weight behind its dequantization. Here the integers are, so that
the products read ``dequantize(w)`` itself, and tables of rows stay small.
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.compute_constants import SAME_ORDER, TRANSPOSE
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.quantized import is_quantized_weight
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import static_shape

_TABLE = "relax.take"


@tvm.transform.module_pass(opt_level=0, name="ViewQuantizedWeights")
class ViewQuantizedWeights:
    """Compute views of quantized weights on their integers."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without views of quantized weights."""
        return rewrite_calls(mod, _view)


def _view(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, TRANSPOSE, *SAME_ORDER, _TABLE):
        return None
    weight = lookup(call.args[0])
    if not is_quantized_weight(weight):
        return None
    data, scale, zero = weight.args
    array = data.value.numpy()
    is_single = scale.value.numpy().size == zero.value.numpy().size == 1
    axis = int(weight.attrs.axis) % array.ndim
    if is_call_to(call, _TABLE):
        if not is_single or call.attrs.axis is None:
            return None
        picked = emit(relax.Call(call.op, [data, call.args[1]], call.attrs))
        return relax.op.dequantize(picked, scale, zero, axis=0, out_dtype=weight.attrs.out_dtype)
    if is_call_to(call, TRANSPOSE):
        axes = call.attrs.axes
        order = [int(a) for a in axes] if axes is not None else list(range(array.ndim))[::-1]
        viewed, moved = np.transpose(array, order), order.index(axis)
    else:
        shape = static_shape(call)
        if shape is None:
            return None
        viewed = array.reshape(shape)
        found = 0 if is_single else _same_axis(array.shape, axis, shape)
        if found is None:
            return None
        moved = found
    if viewed.ndim < 2:
        return None
    integers = relax.const(np.ascontiguousarray(viewed), str(data.ty.dtype))
    return relax.op.dequantize(integers, scale, zero, axis=moved, out_dtype=weight.attrs.out_dtype)


def _same_axis(before: tuple[int, ...], axis: int, after: tuple[int, ...]) -> int | None:
    """Return the axis of a reshaped tensor that `axis` of the tensor became, or None."""
    outside = math.prod(before[:axis])
    for position, extent in enumerate(after):
        if extent == before[axis] and math.prod(after[:position]) == outside:
            return position
    return None

"""Reads the weights of quantized layers: constants behind a dequantization, perhaps transposed."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.formats.quantization import along
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.quantized import DEQUANTIZE
from tvm_sparse.passes.ir.rewriting import Lookup

_TRANSPOSE = "relax.permute_dims"


def weight_of(value: relax.Expr, lookup: Lookup) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the values of a weight, whose zero point is 0, and its scale; None if it has none.

    The values are int8, or int16 if some are farther from zero than int8 reaches. The scale has as
    many axes as the weight, or none.
    """
    call = lookup(value)
    if is_call_to(call, _TRANSPOSE):
        found, axes = weight_of(call.args[0], lookup), call.attrs.axes
        if found is None:
            return None
        order = None if axes is None else [int(axis) for axis in axes]
        values, scale = found
        return values.transpose(order), scale.transpose(order) if scale.ndim else scale
    if not is_call_to(call, DEQUANTIZE) or call.ty.dtype != ACTIVATIONS:
        return None
    arrays = arrays_of(call, lookup)
    if arrays is None or arrays[0].dtype not in (np.int8, np.uint8):
        return None
    values, scale, zero_point = arrays
    axis, rank = int(call.attrs.axis), values.ndim
    steps = values.astype(np.int32) - along(zero_point, axis, rank).astype(np.int32)
    if rank < 2 or steps.size == 0 or not np.isfinite(scale).all():
        return None
    fits = steps.min() >= -128 and steps.max() <= 127
    return steps.astype(np.int8 if fits else np.int16), along(scale, axis, rank)


def arrays_of(call: relax.Call, lookup: Lookup) -> list[np.ndarray] | None:
    """Return the arguments of a call as arrays, or None if they are no constants."""
    constants = [lookup(arg) for arg in call.args]
    if not all(isinstance(constant, tvm.ir.GenericConst) for constant in constants):
        return None
    return [constant.value.numpy() for constant in constants]

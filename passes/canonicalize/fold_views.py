"""reshape(c) => the constant of that shape, and transposes and other views of constants likewise

TVM's `FoldConstant` compiles a function for each of them. Exporters reshape the bias of every
convolution, so that it would compile as many functions as a network has layers.

Runs before `FoldConstant`, which computes all other operators of constants.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import static_shape

TRANSPOSE = "relax.permute_dims"
SAME_ORDER = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")
"""Operators whose result has the elements of the operand in the same order."""


@tvm.transform.module_pass(opt_level=0, name="FoldViews")
class FoldViews:
    """Replace views of constants by constants."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without views of constants."""
        return rewrite_calls(mod, _fold)


def _fold(call: relax.Call, lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, TRANSPOSE, *SAME_ORDER):
        return None
    source, shape = lookup(call.args[0]), static_shape(call)
    if not isinstance(source, tvm.ir.GenericConst) or shape is None:
        return None
    array = source.value.numpy()
    if is_call_to(call, TRANSPOSE):
        axes = call.attrs.axes
        array = np.transpose(array, None if axes is None else [int(axis) for axis in axes])
    return relax.const(np.ascontiguousarray(array).reshape(shape), source.ty.dtype)

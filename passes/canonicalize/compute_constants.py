"""f(c) => the constant that f computes: views, and float32 arithmetic, by NumPy

TVM's `FoldConstant` compiles a function for each call. Exporters reshape the bias of every
convolution, and every normalization has a scale that is computed of constants, so that it would
compile as many functions as a network has layers.

Both compute the same numbers: the operators here are rounded as IEEE 754 says. Runs before
`FoldConstant`, which computes all other operators of constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import static_shape

TRANSPOSE = "relax.permute_dims"
SAME_ORDER = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")
"""Operators whose result has the elements of the operand in the same order."""
ARITHMETIC: dict[str, Callable[..., Any]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.sqrt": np.sqrt,
}
"""Operators that IEEE 754 defines to the last bit."""


@tvm.transform.module_pass(opt_level=0, name="ComputeConstants")
class ComputeConstants:
    """Replace views and float32 arithmetic of constants by constants."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without such calls."""
        return rewrite_calls(mod, _compute)


def _compute(call: relax.Call, lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    shape = static_shape(call)
    if shape is None or not is_call_to(call, TRANSPOSE, *SAME_ORDER, *ARITHMETIC):
        return None
    sources = [lookup(call.args[0])]
    if call.op.name in ARITHMETIC:
        sources = [lookup(arg) for arg in call.args]
    if not all(isinstance(source, tvm.ir.GenericConst) for source in sources):
        return None
    arrays = [source.value.numpy() for source in sources]
    if call.op.name in ARITHMETIC:
        if any(source.ty.dtype != "float32" for source in sources):
            return None
        with np.errstate(all="ignore"):
            result = np.asarray(ARITHMETIC[call.op.name](*arrays))
    elif is_call_to(call, TRANSPOSE):
        axes = call.attrs.axes
        result = np.transpose(arrays[0], None if axes is None else [int(axis) for axis in axes])
    else:
        result = arrays[0]
    return relax.const(np.ascontiguousarray(result).reshape(shape), sources[0].ty.dtype)

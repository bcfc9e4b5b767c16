"""f(c) => the constant that f computes: views, float32 arithmetic and choices, by NumPy

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
from numpy.typing import NDArray
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
CHOICES: dict[str, Callable[..., Any]] = {"relax.isnan": np.isnan, "relax.where": np.where}
"""Operators that compare or copy numbers, as the limits of activations do."""
ON_NUMBERS = ARITHMETIC | CHOICES


@tvm.transform.module_pass(opt_level=0, name="ComputeConstants")
class ComputeConstants:
    """Replace views, float32 arithmetic and choices of constants by constants."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without such calls."""
        return rewrite_calls(mod, _compute)


def _compute(call: relax.Call, lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    shape = static_shape(call)
    if shape is None or not is_call_to(call, TRANSPOSE, *SAME_ORDER, *ON_NUMBERS):
        return None
    sources = [lookup(call.args[0])]
    if call.op.name in ON_NUMBERS:
        sources = [lookup(arg) for arg in call.args]
    if not all(isinstance(source, tvm.ir.GenericConst) for source in sources):
        return None
    arrays = [source.value.numpy() for source in sources]
    if call.op.name in ON_NUMBERS:
        floats = sources[1:] if is_call_to(call, "relax.where") else sources
        if any(source.ty.dtype != "float32" for source in floats):
            return None
        with np.errstate(all="ignore"):
            result = np.asarray(ON_NUMBERS[call.op.name](*arrays))
    elif is_call_to(call, TRANSPOSE):
        result = transposed(call, arrays[0])
    else:
        result = arrays[0]
    return relax.const(np.ascontiguousarray(result).reshape(shape), call.ty.dtype)


def transposed(call: relax.Call, array: NDArray[Any]) -> NDArray[Any]:
    """Return what a transpose of a constant gives."""
    axes = call.attrs.axes
    return np.transpose(array, None if axes is None else [int(axis) for axis in axes])

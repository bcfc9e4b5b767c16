r"""Softplus, written as several operators => tvm_sparse.softplus.

.. math::

    \mathrm{softplus}(x) = \max(x, 0) + \log(1 + e^{-|x|})

Where the exponential is small, the sum with 1 drops its last digits, and the logarithm returns what
is left. The operator computes the logarithm of the sum without the sum.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to, uniform_value
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls

_CHAIN = ("relax.log", "relax.add", "relax.exp", "relax.negative", "relax.abs")


@tvm.transform.module_pass(opt_level=0, name="RecomposeSoftplus")
class RecomposeSoftplus:
    """Recompose `tvm_sparse.softplus`."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with every written-out Softplus as one operator."""
        return rewrite_calls(mod, _recompose)


def _recompose(call: relax.Call, lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, "relax.add", "relax.nn.softplus") or call.ty.dtype != ACTIVATIONS:
        return None
    if is_call_to(call, "relax.nn.softplus"):
        return operators.softplus(call.args[0]) if call.attrs.beta == 1 else None
    a, b = call.args
    for positive, logarithm in ((a, b), (b, a)):
        x = _positive_part(lookup(positive))
        inner = None if x is None else _argument(logarithm, lookup)
        if inner is not None and inner.same_as(x):
            return operators.softplus(x)
    return None


def _positive_part(call: Any) -> relax.Expr | None:
    """Return x of ``max(x, 0)``."""
    if is_call_to(call, "relax.nn.relu"):
        return call.args[0]
    if is_call_to(call, "relax.maximum"):
        for x, zero in (call.args, reversed(call.args)):
            if uniform_value(zero) == 0:
                return x
    return None


def _argument(value: relax.Expr, lookup: Lookup) -> relax.Expr | None:
    """Return x of ``log(1 + exp(-abs(x)))``."""
    for name in _CHAIN:
        call = lookup(value)
        if not is_call_to(call, name):
            return None
        values = [arg for arg in call.args if uniform_value(arg) != 1]
        if len(values) != 1:
            return None
        (value,) = values
    return value

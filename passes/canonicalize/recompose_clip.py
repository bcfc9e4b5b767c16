"""minimum(maximum(x, low), high) => relax.clip(x, low, high); maximum(x, 0) => relax.nn.relu(x)

TVM's ONNX frontend imports Clip as calls of lowered functions. No pass looks into these, so this
one recognizes them by their bodies. Where `low` is above `high`, both limits stay operators and the
result is `high`; TVM's `relax.clip` would return `low`.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax, te, tirx, topi
from tvm_ffi import structural_equal, structural_walk

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.passes.ir.expressions import is_call_to, uniform_value
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import extents_of

_LOWER, _UPPER = "relax.maximum", "relax.minimum"
_LOWERED = {_LOWER: topi.maximum, _UPPER: topi.minimum}

_LARGEST = 3.4028234e38
"""Larger bounds are no limits: before opset 11, the largest float32 was ONNX's default."""


@tvm.transform.module_pass(opt_level=0, name="RecomposeClip")
class RecomposeClip:
    """Recompose `relax.clip` and `relax.nn.relu`."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with its limits as operators; constants must be folded."""

        def rule(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
            if is_call_to(call, "relax.clip"):
                return _in_order(call, emit)
            found = _read_limit(call, mod)
            return None if found is None else _limit(*found, lookup)

        return rewrite_calls(mod, rule)


def _read_limit(call: relax.Call, mod: tvm.IRModule) -> tuple[str, relax.Expr, float] | None:
    """Return the side, the argument and the bound of a limit; None for every other call."""
    if is_call_to(call, _LOWER, _UPPER):
        x, bound = call.args
        value = uniform_value(bound)
        if value is None or extents_of(call) is None or extents_of(call) != extents_of(x):
            return None
        return call.op.name, x, value
    if not is_call_to(call, "relax.call_tir"):
        return None
    func, (x, *bounds) = mod[call.args[0]], call.args[1].fields or [None]
    if x is None or len(bounds) > 1 or extents_of(x) is None or call.ty.dtype != ACTIVATIONS:
        return None
    values = [uniform_value(bound) for bound in bounds]
    if not bounds:
        structural_walk(func.body, (tirx.FloatImm, lambda literal: values.append(literal.value)))
    if len(values) != 1 or values[0] is None:
        return None
    for name, lowered in _LOWERED.items():
        tensors = [te.placeholder(list(arg.ty.shape), arg.ty.dtype) for arg in (x, *bounds)]
        operands = tensors if bounds else [*tensors, values[0]]
        own = te.create_prim_func([*tensors, lowered(*operands)])
        if structural_equal(func.body, own.body, map_free_vars=True):
            return name, x, values[0]
    return None


def _limit(side: str, x: relax.Expr, bound: float, lookup: Lookup) -> relax.Expr | None:
    """Return `x` limited on one side, and on both sides if `x` is limited on the other side."""
    if math.isnan(bound) or x.ty.dtype != ACTIVATIONS:
        return None
    if (-bound if side == _LOWER else bound) >= _LARGEST:
        return x
    if side == _LOWER:
        return relax.op.nn.relu(x) if bound == 0 else relax.op.maximum(x, _number(bound))
    inner = lookup(x)
    low = 0.0 if is_call_to(inner, "relax.nn.relu") else None
    if is_call_to(inner, _LOWER):
        low = uniform_value(inner.args[1])
    if low is not None and low <= bound and extents_of(inner.args[0]) == extents_of(x):
        return relax.op.clip(inner.args[0], low, bound)
    return relax.op.minimum(x, _number(bound))


def _in_order(call: relax.Call, emit: Emit) -> relax.Expr | None:
    """Return a call of `relax.clip` whose low limit is above the high one as two operators."""
    x, low, high = call.args
    if not low.value > high.value:
        return None
    limits = (relax.const(bound.value, x.ty.dtype) for bound in (low, high))
    return relax.op.minimum(emit(relax.op.maximum(x, next(limits))), next(limits))


def _number(value: float) -> relax.Expr:
    return relax.const(value, ACTIVATIONS)

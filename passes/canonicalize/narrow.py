"""Narrows masks: axes along which a mask only repeats get extent 1.

Exporters expand a mask over keys to the shape of the scores, (batch, heads, queries, keys), before
or while they compute it. All its values along heads and queries are the same, so an operator that
broadcasts can take ``(batch, 1, 1, keys)``.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup
from tvm_sparse.passes.ir.shapes import broadcast, extents_of, reshaped
from tvm_sparse.passes.ir.view_chains import RESHAPING

ELEMENTWISE = (
    *("relax.where", "relax.astype", "relax.logical_and", "relax.logical_or", "relax.logical_not"),
    *("relax.add", "relax.subtract", "relax.multiply", "relax.divide", "relax.negative"),
    *("relax.equal", "relax.not_equal", "relax.less", "relax.less_equal"),
    *("relax.greater", "relax.greater_equal", "relax.minimum", "relax.maximum"),
)


def narrow(value: relax.Expr, lookup: Lookup, emit: Emit) -> relax.Expr:
    """Return `value` with extent 1 wherever it repeats, except along its last axis.

    The shape of `value` must be static. Constants are cut, and elementwise operators are applied to
    narrower arguments.
    """
    rank = len(extents_of(value) or ())
    axes = {axis for axis in range(-rank, -1) if _repeats(value, axis, lookup)}
    return _narrowed(value, axes, lookup, emit)


def lower_bound(value: relax.Expr, lookup: Lookup) -> float:
    """Return a lower bound of the elements of `value`; -inf if none is known."""
    if isinstance(value, tvm.ir.GenericConst):
        return float(value.value.numpy().min(initial=math.inf))
    call = lookup(value)
    if is_call_to(call, "relax.where"):
        return min(lower_bound(choice, lookup) for choice in call.args[1:])
    if is_call_to(call, "relax.broadcast_to", *RESHAPING):
        return lower_bound(call.args[0], lookup)
    return -math.inf


def _repeats(value: relax.Expr, axis: int, lookup: Lookup) -> bool:
    """Whether all elements of `value` along an axis, counted from the end, are provably equal."""
    shape = extents_of(value)
    if shape is None:
        return False
    if axis < -len(shape) or shape[axis] == 1:
        return True
    if isinstance(value, tvm.ir.GenericConst):
        array = value.value.numpy()
        return bool((array == array.take([0], axis)).all())
    call = lookup(value)
    return is_call_to(call, "relax.broadcast_to", *ELEMENTWISE) and all(
        _repeats(arg, axis, lookup) for arg in call.args if not isinstance(arg, relax.ShapeExpr)
    )


def _narrowed(value: relax.Expr, axes: set[int], lookup: Lookup, emit: Emit) -> relax.Expr:
    shape = extents_of(value) or ()
    wide = [axis for axis in axes if axis >= -len(shape) and shape[axis] != 1]
    if not wide:
        return value
    if isinstance(value, tvm.ir.GenericConst):
        array = value.value.numpy()
        for axis in wide:
            array = array.take([0], axis)
        return relax.const(array, value.ty.dtype)
    call = lookup(value)
    if is_call_to(call, "relax.broadcast_to"):
        source = _narrowed(call.args[0], axes, lookup, emit)
        target = tuple(1 if i - len(shape) in wide else n for i, n in enumerate(shape))
        if extents_of(source) == target:
            return source
        if math.prod(extents_of(source) or ()) == math.prod(target):
            return emit(reshaped(source, target))
        return emit(broadcast(source, target))
    args = [_narrowed(arg, axes, lookup, emit) for arg in call.args]
    result = emit(relax.Call(call.op, args, call.attrs))
    if is_call_to(call, "relax.logical_and"):
        for kept, other in (args, args[::-1]):
            if _is_true(other) and extents_of(kept) == extents_of(result):
                return kept
    return result


def _is_true(value: relax.Expr) -> bool:
    return isinstance(value, tvm.ir.GenericConst) and bool(value.value.numpy().all())

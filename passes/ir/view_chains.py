"""Reads chains of layout changes in a Relax function as views.

`views` computes with views and knows no graph; this file finds them in a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import integers, is_call_to, uniform_value
from tvm_sparse.passes.ir.rewriting import Lookup
from tvm_sparse.passes.ir.shapes import extents_of, is_symbolic
from tvm_sparse.passes.ir.views import View

RESHAPING = ("relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten")
CHANGES = (*RESHAPING, "relax.permute_dims", "relax.take", "relax.strided_slice", "relax.split")


def follow(value: relax.Expr, lookup: Lookup, *, through_scaling: bool = False) -> View | None:
    """Read the chain of layout changes that ends in `value`, as far up as it goes.

    Parameters
    ----------
    value : relax.Expr
        A tensor.
    lookup : Lookup
        Returns the expression that a variable is bound to.
    through_scaling : bool
        Whether a multiplication with one number is part of the chain.

    Returns
    -------
    View or None
        None if the shape of `value` is not static.
    """
    call = lookup(value)
    item = call if isinstance(call, relax.TupleGetItem) else None
    if item is not None:
        call = lookup(item.tuple_value)
    found = None
    factor = scaling(call) if through_scaling else None
    if factor is not None or is_call_to(call, *CHANGES):
        source = call.args[0] if uniform_value(call.args[0]) is None else call.args[-1]
        above = follow(source, lookup, through_scaling=through_scaling)
        if above is not None and factor is not None:
            found = replace(above, factor=above.factor * factor)
        elif above is not None:
            found = _changed(above, call, value, item)
    # A product with a constant of a larger shape is no view. The shape shows it.
    return found if found is not None and found.shape == extents_of(value) else View.whole(value)


def scaling(call: relax.Expr) -> float | None:
    """Return the number that `call` multiplies its tensor with, or None."""
    if is_call_to(call, "relax.multiply"):
        return next((n for n in map(uniform_value, call.args) if n is not None), None)
    divisor = uniform_value(call.args[1]) if is_call_to(call, "relax.divide") else None
    return 1 / divisor if divisor else None


def _changed(
    view: View, call: relax.Call, value: relax.Expr, item: relax.TupleGetItem | None
) -> View | None:
    """Return `value`, the result of `call`, as a view, where `view` is the view of its argument."""
    shape = extents_of(value)
    if shape is None:
        return None
    if is_call_to(call, *RESHAPING):
        return view.reshape(shape)
    if is_call_to(call, "relax.permute_dims"):
        rank = len(shape)
        order = call.attrs.axes or range(-1, -1 - rank, -1)
        return view.permute(int(axis) % rank for axis in order)
    if is_call_to(call, "relax.take"):
        return _taken(view, call, shape)
    if is_call_to(call, "relax.strided_slice"):
        return _sliced(view, call)
    if is_call_to(call, "relax.split") and item is not None:
        axis = int(call.attrs.axis) % len(shape)
        sizes = [field.shape.values[axis] for field in call.ty.fields]
        if not all(isinstance(size, tvm.tirx.IntImm) for size in sizes):
            return None
        begin = sum(map(int, sizes[: item.index]))
        return view.slice(axis, begin, begin + shape[axis])
    return None


def _taken(view: View, call: relax.Call, shape: Sequence[int]) -> View | None:
    indices = call.args[1]
    if not isinstance(indices, tvm.ir.GenericConst) or call.attrs.axis is None:
        return None
    if indices.value.numpy().size != 1:
        return None
    axis = int(call.attrs.axis) % len(view.axes)
    if is_symbolic(view.shape[axis : axis + 1]):
        return None
    position = int(indices.value.numpy().item()) % view.shape[axis]
    taken = view.slice(axis, position, position + 1)
    return taken.reshape(shape) if taken is not None else None


def _sliced(view: View, call: relax.Call) -> View | None:
    axes, begins, ends, *strides = (integers(argument) for argument in call.args[1:])
    if axes is None or begins is None or ends is None or any(set(s or [0]) != {1} for s in strides):
        return None
    found: View | None = view
    if is_symbolic([view.shape[axis] for axis in axes]):
        return None
    for axis, begin, end in zip(axes, begins, ends, strict=True):
        positions = range(view.shape[axis])[begin:end]
        if found is None or not positions:
            return None
        found = found.slice(axis % len(view.axes), positions[0], positions[-1] + 1)
    return found

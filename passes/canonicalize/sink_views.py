"""op(view(x)) => view(op(x)) for operators on single rows; then layout changes are shortened.

Exporters write a linear layer on tokens as `Gemm`, between a reshape to two axes and one back, and
`nn.MultiheadAttention` transposes batch and tokens before its linear layers. A linear layer, its
bias, LayerNorm and softmax treat every row (the last axis) alike, so reshapes and transposes of
the other axes may come after them instead. There they meet and cancel:
``reshape(reshape(x, a), b)`` is ``reshape(x, b)``, and a transpose of its inverse is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tvm
from tvm import relax

from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import constant_rank, is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import extents_of, reshaped
from tvm_sparse.passes.ir.view_chains import RESHAPING, follow
from tvm_sparse.passes.ir.views import Atom, View


@tvm.transform.module_pass(opt_level=0, name="SinkViews")
class SinkViews:
    """Move layout changes below the operators on rows, and shorten their chains."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with its layout changes as late and as few as possible."""
        return rewrite_calls(mod, sink_views)


def sink_views(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """Return `call` with its layout change moved below it or shortened, or None."""
    if is_call_to(call, *RESHAPING, "relax.permute_dims"):
        return _shorten(call, lookup)
    if is_call_to(call, operators.FAKE_QUANTIZE.name):
        return _sink_rounding(call, lookup, emit)
    operand = _row_operand(call)
    return None if operand is None else _sink(call, operand, lookup, emit)


def _shorten(call: relax.Call, lookup: Lookup) -> relax.Expr | None:
    view = follow(call, lookup)
    # A slice is no shorter: each of its readers would repeat it.
    if view is None or math.prod(view.shape) != math.prod(extents_of(view.base) or ()):
        return None
    shortest = view.materialize()
    if shortest is None or _cost(shortest, view.base, lookup) >= _cost(call, view.base, lookup):
        return None
    return shortest


def _cost(value: relax.Expr, base: relax.Expr, lookup: Lookup) -> float:
    """Return the price of a chain from `base`: a transpose moves data, a reshape does not."""
    cost = 0.0
    while not value.same_as(base):
        call = lookup(value)
        if not isinstance(call, relax.Call):
            return math.inf
        cost += 1 if is_call_to(call, *RESHAPING) else 4
        value = call.args[0]
    return cost


_PRODUCTS = ("relax.matmul", operators.QUANTIZED_MATMUL.name, operators.BLOCK_MATMUL.name)
"""Products of rows and a weight."""


def _row_operand(call: relax.Call) -> int | None:
    """Return the number of the argument whose rows `call` turns into the rows of its result."""
    shape = extents_of(call) or ()
    if is_call_to(call, *_PRODUCTS[1:]):
        return 0
    if is_call_to(call, "relax.matmul"):
        return 0 if constant_rank(call.args[1]) == 2 else None
    if is_call_to(call, "relax.add"):
        a, b = call.args
        if constant_rank(b) == 1 and extents_of(a) == shape:
            return 0
        return 1 if constant_rank(a) == 1 and extents_of(b) == shape else None
    if is_call_to(call, "relax.nn.softmax"):
        return 0 if int(call.attrs.axis) in (-1, len(shape) - 1) else None
    if is_call_to(call, "relax.nn.layer_norm"):
        return 0 if [int(axis) for axis in call.attrs.axes] in ([-1], [len(shape) - 1]) else None
    return None


def _sink(call: relax.Call, operand: int, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    view = follow(call.args[operand], lookup)
    if view is None or not view.axes:
        return None
    channels = view.shape[-1]
    base_shape = extents_of(view.base) or ()
    leading = _leading_axes(base_shape, channels)
    if leading == () and (len(base_shape) > 1 or is_call_to(call, *_PRODUCTS)):
        leading = (1,)  # the kernels know products of rows, not those of vectors
    if leading is None or view.axes[-1] != _run(channels):
        return None
    moved, whole = view.shape != (*leading, channels), math.prod(leading) * channels
    if math.prod(view.shape) != whole or (not moved and tuple(view.atoms) == _run(whole)):
        return None
    rows = view.base
    if extents_of(rows) != (*leading, channels):
        rows = emit(reshaped(rows, (*leading, channels)))
    args = [*call.args[:operand], rows, *call.args[operand + 1 :]]
    result = emit(_on_last_axis(call, args))
    width = (extents_of(result) or (0,))[-1]
    rescaled = [tuple((n, s // channels * width) for n, s in axis) for axis in view.axes[:-1]]
    return View(result, (*rescaled, _run(width))).materialize()


def _sink_rounding(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """fake_quantize(view(x)) => view(fake_quantize(x)), for every view of all elements"""
    view = follow(call.args[0], lookup)
    if view is None or view.base.same_as(call.args[0]):
        return None
    if math.prod(view.shape) != math.prod(extents_of(view.base) or ()):
        return None
    rounded = emit(relax.Call(call.op, [view.base], call.attrs))
    return View(rounded, view.axes).materialize()


def _on_last_axis(call: relax.Call, args: Sequence[relax.Expr]) -> relax.Call:
    """Return an operator on rows for other arguments, whose number of axes may be another one."""
    if is_call_to(call, "relax.nn.softmax"):
        return relax.op.nn.softmax(*args, axis=-1)
    if is_call_to(call, "relax.nn.layer_norm"):
        attrs = call.attrs
        return relax.op.nn.layer_norm(*args, [-1], attrs.epsilon, attrs.center, attrs.scale)
    return relax.Call(call.op, args, call.attrs)


def _run(extent: int) -> tuple[Atom, ...]:
    """Return the atoms of an axis that lies in one piece."""
    return ((extent, 1),) if extent != 1 else ()


def _leading_axes(shape: Sequence[int], channels: int) -> tuple[int, ...] | None:
    """Return the axes of `shape` above those that together make a row of `channels`."""
    for rank in range(len(shape)):
        if math.prod(shape[rank:]) == channels:
            return tuple(shape[:rank])
    return None

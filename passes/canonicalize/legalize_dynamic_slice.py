"""dynamic_strided_slice(x, begin, end, step) => kernel of a shape that is computed from them

`FoldConstant` tries to legalize every call that it meets. Of this operator it would leave the call
of a shape function behind, but not the function, so this pass runs before it.

TVM's own legalization gives sizes below zero where a slice is empty, or counts backwards. The
bounds mean what they mean in ONNX and in Python: those outside of an axis are cut to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import tvm
from tvm import relax, te, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sparse.passes.canonicalize.check_indices import checked
from tvm_sparse.schedules.operators.checked_copy import MOST

if TYPE_CHECKING:
    from tvm.ir import Expr

_SLICE = tvm.ir.Op.get("relax.dynamic_strided_slice")


@tvm.transform.module_pass(opt_level=0, name="LegalizeDynamicSlice")
class LegalizeDynamicSlice:
    """Legalize slices whose bounds are known only at run time."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` without ``relax.dynamic_strided_slice``."""
        legalizer = _Legalizer(mod)
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                legalizer.builder_.update_func(gvar, legalizer.visit_expr(func))
        return legalizer.builder_.get()


@mutator
class _Legalizer(PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if call.op != _SLICE:
            return call
        builder, (data, begin, end, step) = self.builder_, call.args
        step = checked(builder, step, lambda value, _: value != 0, "a step of a slice is 0")
        sizes, firsts, steps = (
            builder.emit(builder.call_te(part, data, begin, end, step))
            for part in (_by_axis(_size), _by_axis(_first), _by_axis(_step))
        )
        shape = [tirx.Var(f"size_{axis}", "int64") for axis in range(data.ty.ndim)]
        builder.match_cast(builder.emit(relax.op.tensor_to_shape(sizes)), relax.ShapeType(shape))
        return builder.call_te(_sliced, data, firsts, steps, shape)


Of = Callable[["Expr", "Expr", "Expr", "Expr"], "Expr"]
"""What is computed from the bounds of an axis, its step, and its size."""


def _by_axis(of: Of) -> Callable[..., te.Tensor]:
    def compute(data: te.Tensor, begin: te.Tensor, end: te.Tensor, step: te.Tensor) -> te.Tensor:
        def at(axis: Expr) -> Expr:
            size = tirx.const(0, "int64")
            for i, extent in enumerate(data.shape):
                size = tirx.Select(axis == i, tirx.Cast("int64", extent), size)
            return of(begin[axis], end[axis], step[axis], size)

        return te.compute((data.ndim,), at, name=of.__name__.strip("_"))

    return compute


def _clamped(value: Expr, least: Expr, most: Expr) -> Expr:
    return tirx.Min(tirx.Max(value, least), most)


def _from_front(bound: Expr, size: Expr) -> Expr:
    """Return a bound counted from the front; it is cut first, for the sum must not overflow."""
    bound = _clamped(bound, -size - 1, size)
    return tirx.Select(bound < 0, bound + size, bound)


def _first(begin: Expr, _end: Expr, step: Expr, size: Expr) -> Expr:
    zero = tirx.const(0, "int64")
    return _clamped(_from_front(begin, size), zero, tirx.Select(step < 0, size - 1, size))


def _last(end: Expr, step: Expr, size: Expr) -> Expr:
    """Return the bound that is not reached; backwards, -1 is in front of all."""
    least = tirx.Select(step < 0, tirx.const(-1, "int64"), tirx.const(0, "int64"))
    return _clamped(_from_front(end, size), least, tirx.Select(step < 0, size - 1, size))


def _step(_begin: Expr, _end: Expr, step: Expr, _size: Expr) -> Expr:
    return _clamped(step, tirx.const(-MOST, "int64"), tirx.const(MOST, "int64"))


def _size(begin: Expr, end: Expr, step: Expr, size: Expr) -> Expr:
    step = _step(begin, end, step, size)
    sign = tirx.Select(step < 0, tirx.const(-1, "int64"), tirx.const(1, "int64"))
    distance = (_last(end, step, size) - _first(begin, end, step, size)) * sign
    steps = tirx.Max(step * sign, tirx.const(1, "int64"))
    return tirx.Max(tirx.FloorDiv(distance + steps - 1, steps), tirx.const(0, "int64"))


def _sliced(data: te.Tensor, firsts: te.Tensor, steps: te.Tensor, shape: list[Expr]) -> te.Tensor:
    def at(*place: Expr) -> Expr:
        return data(*(firsts[i] + steps[i] * place[i] for i in range(data.ndim)))

    return te.compute(shape, at, name="dynamic_slice")

"""take(x, i) => take(x, checked(i)), and likewise for all operators that read or write at indices

TVM's operators reach any address for an index out of range. Indices that are constants are checked
here, others by a function that copies them first: nobody can change the copy between the check and
the use. It raises an error where ONNX Runtime does.

Runs before constants are folded, which runs operators.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.errors import ModelError
from tvm_sparse.passes.ir.shapes import static_shape
from tvm_sparse.schedules.emit.buffers import argument

if TYPE_CHECKING:
    from tvm.ir import Expr

NAME = "checked_indices"
"""The name of the functions that check indices."""

OPAQUE = 8
"""The pattern of operators that TVM fuses with no other."""


@tvm.transform.module_pass(opt_level=0, name="CheckIndices")
class CheckIndices:
    """Check the indices of operators that read or write at indices."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod`, where no index of such an operator can be out of range."""
        checker = _Checker(mod)
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                checker.builder_.update_func(gvar, checker.visit_expr(func))
        return checker.builder_.get()


@mutator
class _Checker(PyExprMutator):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.layer = ""

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        self.layer = str(binding.var.name)
        super().visit_var_binding_(binding)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
            return call
        found = _axes(call)
        if found is None:
            return call
        axes, from_end = found
        indices = call.args[1]
        dtype, shape = str(indices.ty.dtype), indices.ty.shape
        if "int" not in dtype or not isinstance(shape, relax.ShapeExpr):
            return call
        text = _text(self.layer, axes)
        if isinstance(indices, tvm.ir.GenericConst):
            _check_constant(indices.value.numpy(), axes, from_end, text)
            return call
        function = _function(list(shape), dtype, axes, from_end, text)
        gvar = self.builder_.add_func(function, NAME)
        checked = relax.call_tir(gvar, [indices], relax.TensorType(shape, dtype))
        indices = self.builder_.emit(checked)
        if call.op.name == "relax.take":
            return relax.op.take(call.args[0], indices, call.attrs.axis, mode="clip")
        return relax.Call(call.op, [call.args[0], indices, *call.args[2:]], call.attrs)


def _axes(call: relax.Call) -> tuple[list[int], bool] | None:
    """Return the sizes of the axes that a call's indices are for, and whether they count back.

    There is one axis for all indices, or one for each position along the last axis of the indices.
    """
    name = call.op.name
    if name not in _OPERATORS or (name == "relax.take" and call.attrs.mode != "fast"):
        return None
    shape = static_shape(call.args[0])
    if shape is None:
        return None
    if name in ("relax.gather_nd", "relax.scatter_nd"):
        batch = int(call.attrs.batch_dims) if name == "relax.gather_nd" else 0
        return list(shape[batch : batch + int(call.args[1].ty.shape[-1])]), False
    axis = call.attrs.axis
    size = int(np.prod(shape)) if axis is None else shape[int(axis)]
    return [size], name == "relax.scatter_elements"


_OPERATORS = frozenset(
    f"relax.{name}"
    for name in ("take", "gather_elements", "gather_nd", "scatter_elements", "scatter_nd")
)


def _text(layer: str, axes: Sequence[int]) -> str:
    sizes = " and ".join(map(str, dict.fromkeys(axes)))
    return f"an index is out of range in {layer}: it is for an axis of {sizes}"


def _check_constant(indices: np.ndarray, axes: Sequence[int], from_end: bool, text: str) -> None:
    sizes = np.array(axes)
    if ((indices < (-sizes if from_end else 0)) | (indices >= sizes)).any():
        raise ModelError(text)


def _function(
    shape: Sequence[Expr], dtype: str, axes: Sequence[int], from_end: bool, text: str
) -> tirx.PrimFunc:
    """Return a function that copies indices and raises a ValueError if one is out of range."""
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name(NAME)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": OPAQUE})
        sizes = [size if isinstance(size, tirx.IntImm) else T.int64() for size in shape]
        given, copy = argument("given", *sizes, dtype=dtype), argument("copy", *sizes, dtype=dtype)
        with T.sblock(NAME):
            whole = tuple(slice(0, size) for size in sizes)
            T.reads(given[whole])
            T.writes(copy[whole])
            wrong = T.alloc_buffer((T.int64(1),), "int32")
            T.buffer_store(wrong, T.int32(0), [T.int64(0)])
            with contextlib.ExitStack() as loops:
                place = [loops.enter_context(T.serial(T.int64(0), size)) for size in sizes]
                T.buffer_store(copy, given[place], place)
                index = tirx.Cast("int64", copy[place]) if dtype != "int64" else copy[place]
                size = T.int64(axes[0]) if len(axes) == 1 else _at(place[-1], axes)
                least = -size if from_end else T.int64(0)
                out = tirx.Or(index < least, index >= size)
                found = tirx.Select(out, T.int32(1), wrong[T.int64(0)])
                T.buffer_store(wrong, found, [T.int64(0)])
            with T.Assert(wrong[T.int64(0)] == T.int32(0), text, "ValueError"):
                T.evaluate(0)
    return builder.get()


def _at(position: Expr, values: Sequence[int]) -> Expr:
    """Return the value at a position that is known at run time only."""
    found = T.int64(values[-1])
    for i, value in enumerate(values[:-1]):
        found = tirx.Select(position == T.int64(i), T.int64(value), found)
    return found

"""f(x, w) of float16 => astype(f(astype(x, "float32"), w as float32), "float16")

A model in float16 is a model whose weights are stored in float16. What its layers compute in is
decided by the type of the panels, and only panels have kernels for float16: elsewhere TVM computes
one value at a time on processors without such arithmetic. So the model is computed in float32, as
ONNX Runtime does, and float16 remains at inputs, at outputs and where the model itself casts to it.
Inputs that an operator writes in place keep their type: its kernel knows both.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sparse.dtypes import DType
from tvm_sparse.passes.ir.expressions import is_call_to

CALLS_WITH_TYPES = ("relax.call_tir", "relax.call_dps_packed", "relax.call_pure_packed")
"""Calls of functions that know nothing of Relax: their operands and results keep their types."""


@tvm.transform.module_pass(opt_level=0, name="WidenHalf")
class WidenHalf:
    """Compute functions of float16 in float32."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with float16 only where values come in, go out, or are cast by the model.

        Functions that call other Relax functions, or match shapes of float16 tensors at run time,
        stay as they are.
        """
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function) and _is_widened(func):
                widener = _Widener(mod)
                widened = _with_results(widener.visit_expr(func), func.ret_ty)
                widener.builder_.update_func(gvar, relax.analysis.remove_all_unused(widened))
                mod = widener.builder_.get()
        return mod


def _is_widened(func: relax.Function) -> bool:
    """Return whether a function has values of float16, and nothing that fixes their type."""
    values: list[relax.Expr] = []
    relax.analysis.post_order_visit(func, values.append)
    if any(isinstance(v, relax.Call) and isinstance(v.op, tvm.ir.GlobalVar) for v in values):
        return False
    half = [v for v in values if isinstance(v, relax.Var | tvm.ir.GenericConst) and _is_half(v.ty)]
    matched = (
        binding.var
        for value in values
        if isinstance(value, relax.SeqExpr)
        for block in value.blocks
        for binding in block.bindings
        if isinstance(binding, relax.MatchCast)
    )
    return bool(half) and not any(_is_half(var.ty) for var in matched)


def _is_same_type(cast: relax.Call) -> bool:
    return bool(cast.args[0].ty.dtype == cast.attrs["dtype"])


def _is_half(type_: relax.Type) -> bool:
    return isinstance(type_, relax.TensorType) and type_.dtype == DType.FLOAT16


@mutator
class _Widener(PyExprMutator):
    """Casts every value of float16 as soon as it is there, so that the others see float32 only."""

    def visit_function_(self, func: relax.Function) -> relax.Expr:
        self.params = set(func.params)
        return super().visit_function_(func)

    def visit_var_(self, var: relax.Var) -> relax.Expr:
        visited = super().visit_var_(var)
        return self._wide(visited) if var in self.params else visited

    def visit_generic_const_(self, const: tvm.ir.GenericConst) -> relax.Expr:
        if _is_half(const.ty):
            return relax.const(const.value.numpy().astype(DType.FLOAT32))
        return const

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        visited = super().visit_call_(call)
        if is_call_to(visited, "relax.astype") and _is_same_type(visited):
            return visited.args[0]
        if visited.op.name in CALLS_WITH_TYPES:
            operands = zip(visited.args[1:], call.args[1:], strict=True)
            args = [call.args[0], *(self._as_given(new, old) for new, old in operands)]
            visited = relax.Call(call.op, args, call.attrs, call.ty_args)
        return self._wide(self.builder_.normalize(visited))

    def _as_given(self, new: relax.Expr, old: relax.Expr) -> relax.Expr:
        """Return an operand with the types that it had, for a function that expects them."""
        if isinstance(old, relax.Tuple):
            fields = zip(new.fields, old.fields, strict=True)
            return relax.Tuple([self._as_given(*field) for field in fields])
        return self._cast(new, DType.FLOAT16) if _is_half(old.ty) else new

    def _wide(self, value: relax.Expr) -> relax.Expr:
        """Return a value with float32 in the place of float16."""
        if isinstance(value.ty, relax.TupleType) and any(map(_is_half, value.ty.fields)):
            whole = self.builder_.emit(value)
            return relax.Tuple([self._wide(field) for field in _fields(whole, self.builder_.emit)])
        return self._cast(value, DType.FLOAT32) if _is_half(value.ty) else value

    def _cast(self, value: relax.Expr, dtype: DType) -> relax.Expr:
        value = value if isinstance(value, relax.Var) else self.builder_.emit(value)
        return self.builder_.emit(relax.op.astype(value, dtype))


def _with_results(func: relax.Function, type_: relax.Type) -> relax.Function:
    """Return a function whose results are cast to the tensors' types in `type_`, in its last block.

    A result that was just cast from float16 is that value.
    """
    *blocks, last = func.body.blocks
    known = {binding.var: binding.value for binding in last.bindings}
    bindings = list(last.bindings)

    def emit(value: relax.Expr) -> relax.Var:
        value = relax.BlockBuilder().normalize(value)
        bindings.append(relax.VarBinding(relax.Var(f"result{len(bindings)}", value.ty), value))
        return bindings[-1].var

    def cast(value: relax.Expr, to: relax.Type) -> relax.Expr:
        if isinstance(to, relax.TupleType):
            fields = value.fields if isinstance(value, relax.Tuple) else _fields(value, emit)
            return relax.Tuple([cast(field, t) for field, t in zip(fields, to.fields, strict=True)])
        if not _is_half(to):
            return value
        source = value
        while isinstance(source, relax.Var) and source in known:
            source = known[source]
        if is_call_to(source, "relax.astype") and _is_half(source.args[0].ty):
            return emit(source.args[0])
        return emit(relax.op.astype(value, to.dtype))

    result = cast(func.body.body, type_)
    body = relax.SeqExpr([*blocks, type(last)(bindings)], result)
    return relax.Function(func.params, body, type_, func.is_pure, func.attrs)


def _fields(value: relax.Expr, emit: Callable[[relax.Expr], relax.Var]) -> list[relax.Var]:
    """Return the fields of a variable that holds a tuple."""
    return [emit(relax.TupleGetItem(value, i)) for i in range(len(value.ty.fields))]

"""TrustArguments: the kernels that read no input of the network need no checks of arguments.

TVM begins every function with checks of the type, shape and strides of each argument. They are half
to two thirds of a network's machine code. A tensor that another kernel has written, or a constant,
is as the compiler made it; inputs, and what other functions return, may be anything.

`tvm_sparse.kernel_objects` compiles the functions marked here without checks. A function with
assertions of its own keeps all of them.
"""

from __future__ import annotations

import tvm
from tvm import relax, tirx

TRUSTED = "tvm_sparse.trusted"
"""The attribute of the functions whose arguments need no check."""

_KERNELS = ("relax.call_tir", "relax.call_tir_inplace")
_VIEWS = ("relax.reshape", "relax.memory.view")


@tvm.transform.module_pass(opt_level=0, name="TrustArguments")
class TrustArguments:
    """Mark the PrimFuncs that only ever read constants and what PrimFuncs have written."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with the attribute `TRUSTED` at these PrimFuncs."""
        checked = {
            gvar
            for func in mod.functions.values()
            if isinstance(func, relax.Function)
            for gvar in _reading_others(func)
        }
        without = tirx.transform.SkipAssert()(mod)
        functions = {
            gvar: func.with_attr(TRUSTED, True)
            if isinstance(func, tirx.PrimFunc)
            and gvar not in checked
            and without[gvar].body.same_as(func.body)
            else func
            for gvar, func in mod.functions_items()
        }
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def _reading_others(function: relax.Function) -> list[tvm.ir.GlobalVar]:
    """Return the functions that a Relax function hands anything else."""
    bound: dict[relax.Var, relax.Expr] = {}
    calls: list[relax.Call] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.SeqExpr):
            bound.update((b.var, b.value) for block in expr.blocks for b in block.bindings)
        elif isinstance(expr, relax.Call):
            calls.append(expr)

    relax.analysis.post_order_visit(function, visit)

    def is_own(value: relax.Expr) -> bool:
        if isinstance(value.ty, tvm.ir.PrimType):
            return True  # a number has no shape
        if isinstance(value, relax.Tuple):
            return all(map(is_own, value.fields))
        if isinstance(value, relax.TupleGetItem):
            return is_own(value.tuple_value)
        if isinstance(value, relax.Var):
            return value in bound and is_own(bound[value])
        if isinstance(value, relax.Call):
            name = getattr(value.op, "name", None)
            return name in _KERNELS or (name in _VIEWS and is_own(value.args[0]))
        return isinstance(value, tvm.ir.Constant)

    others = []
    for call in calls:
        if getattr(call.op, "name", None) not in _KERNELS:
            others += [
                value for value in (call.op, *call.args) if isinstance(value, tvm.ir.GlobalVar)
            ]
        elif not is_own(call.args[1]):
            others.append(call.args[0])
    return others

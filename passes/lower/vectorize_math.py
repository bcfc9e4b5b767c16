"""VectorizeMath: exp(x), erf(x), ... => arithmetic

The pass replaces elementary functions in TensorIR by the expressions of
`tvm_sparse.schedules.emit.elementwise`, which LLVM keeps in vector code. It runs after scheduling,
because the expressions bind variables, which a schedule that inlines or unrolls would bind twice.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Expr

from tvm_sparse.schedules.emit.elementwise import EXPRESSIONS

FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {
    f"tirx.{name}": EXPRESSIONS[name] for name in ("exp", "log", "erf", "tanh", "sigmoid")
}
"""Expressions of the functions that LLVM has no vector code for, by their names in TensorIR."""


@tvm.transform.module_pass(opt_level=0, name="VectorizeMath")
class VectorizeMath:
    """Replace float32 calls of elementary functions; those of other types stay."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with the calls in all its PrimFuncs replaced."""
        functions = {
            gvar: vectorize_math(func) if isinstance(func, tirx.PrimFunc) else func
            for gvar, func in mod.functions_items()
        }
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def vectorize_math(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return `func` with its float32 calls of elementary functions replaced."""

    def replace(call: tvm.ir.Call) -> Expr:
        name = getattr(call.op, "name", None)
        if name in FUNCTIONS and str(call.ty.dtype).startswith("float32"):
            argument = tvm_ffi.structural_map(call.args[0], (tirx.Cast, _selected))
            return FUNCTIONS[name](argument)
        return call

    return func.with_body(tvm_ffi.structural_map(func.body, (tvm.ir.Call, replace)))


def _selected(cast: tirx.Cast) -> Expr:
    """Return a condition as a number by a selection: TVM's analysis fails for casts of vectors."""
    if str(cast.value.ty.dtype) != "bool":
        return cast
    one, zero = (tirx.const(number, cast.ty.dtype) for number in (1, 0))
    return tirx.Select(cast.value, one, zero)

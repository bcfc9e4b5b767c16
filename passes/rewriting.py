"""The frame of the recomposing passes: one rule, tried at every call of a Relax function.

A rule sees a call whose arguments are already rewritten, and a `lookup` that tells what a variable
is bound to; it returns the expression that takes the call's place, or None. What no longer has a
reader is dropped at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

Lookup: TypeAlias = Callable[[relax.Expr], relax.Expr]
"""Maps a variable to the expression bound to it, and everything else to itself."""

Rule: TypeAlias = Callable[[relax.Call, Lookup], "relax.Expr | None"]


@mutator
class _Rewriter(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, rule: Rule) -> None:
        super().__init__(mod)
        self.rule = rule

    def lookup(self, value: relax.Expr) -> relax.Expr:
        bound = self.builder_.lookup_binding(value) if isinstance(value, relax.Var) else None
        return value if bound is None else bound

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.builder_.normalize(super().visit_call_(call))
        replacement = self.rule(call, self.lookup)
        return call if replacement is None else replacement


def rewrite_calls(mod: tvm.IRModule, rule: Rule) -> tvm.IRModule:
    """Apply `rule` to every call of every Relax function of `mod`, in the order of execution."""
    rewriter = _Rewriter(mod, rule)
    for gvar, func in mod.functions_items():
        if isinstance(func, relax.Function):
            rewritten = relax.analysis.remove_all_unused(rewriter.visit_expr(func))
            rewriter.builder_.update_func(gvar, rewritten)
    return rewriter.builder_.get()


def uniform_value(value: relax.Expr) -> float | None:
    """Return the number that a constant holds in each of its elements, or None."""
    if not isinstance(value, tvm.ir.GenericConst):
        return None
    array = value.value.numpy()
    if array.size == 0 or array.dtype.kind not in "fiu" or (array != array.flat[0]).any():
        return None
    return float(array.flat[0])

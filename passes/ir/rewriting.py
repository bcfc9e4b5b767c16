"""The frame of the recomposing passes: one rule, tried at every call of a Relax function.

A rule sees a call whose arguments are already rewritten; it returns the expression that takes the
call's place, or None. What no longer has a reader is dropped at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm_ffi import structural_equal

from tvm_sparse.passes.ir.dataflow import count_uses

Lookup: TypeAlias = Callable[[relax.Expr], relax.Expr]
"""Maps a variable to the expression bound to it, and everything else to itself."""

Emit: TypeAlias = Callable[[relax.Expr], relax.Expr]
"""Binds a call above the one that is looked at, or finds the variable that has its value already;
what is no call stays itself."""

Rule: TypeAlias = Callable[[relax.Call, Lookup, Emit], "relax.Expr | None"]

SourceRule: TypeAlias = Callable[[relax.Call, Sequence[relax.Expr | None]], "relax.Expr | None"]
"""Sees a call, and for each of its arguments what computes it, or None if others read that, too."""

LayerRule: TypeAlias = Callable[[relax.Call, str, Emit], "relax.Expr | None"]
"""Sees the name of the variable that the call is bound to, too, which is that of a layer."""


@mutator
class _Rewriter(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, rule: Rule, keep: Sequence[relax.Call]) -> None:
        super().__init__(mod)
        self.rule, self.keep, self.layer = rule, keep, ""
        self.emitted: dict[tuple[str, relax.Expr], list[relax.Var]] = {}

    def visit_dataflow_block_(self, block: relax.DataflowBlock) -> relax.BindingBlock:
        # A dataflow variable is not visible outside its block.
        self.emitted.clear()
        return super().visit_dataflow_block_(block)

    def emit(self, call: relax.Expr) -> relax.Expr:
        if not isinstance(call, relax.Call):
            return call
        call = self.builder_.normalize(call)
        known = self.emitted.setdefault((call.op.name, call.args[0]), [])
        for var in known:
            if structural_equal(self.lookup(var), call):
                return var
        known.append(self.builder_.emit(call))
        return known[-1]

    def lookup(self, value: relax.Expr) -> relax.Expr:
        bound = self.builder_.lookup_binding(value) if isinstance(value, relax.Var) else None
        return value if bound is None else bound

    def visit_dataflow_var_(self, var: relax.DataflowVar) -> relax.Expr:
        # A call that was replaced by a variable leaves a second name for it.
        renamed = super().visit_dataflow_var_(var)
        bound = self.lookup(renamed)
        return bound if isinstance(bound, relax.Var) else renamed

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        self.layer = binding.var.name
        super().visit_var_binding_(binding)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        visited = self.builder_.normalize(super().visit_call_(call))
        replacement = None
        if call not in self.keep:
            replacement = self.rule(visited, self.lookup, self.emit)
        return visited if replacement is None else replacement


def rewrite_calls(mod: tvm.IRModule, rule: Rule, keep: Sequence[relax.Call] = ()) -> tvm.IRModule:
    """Apply `rule` to the calls of every Relax function of `mod`, in the order of execution.

    Parameters
    ----------
    mod : tvm.IRModule
        Stays as it is.
    rule : Rule
        Sees each call once.
    keep : sequence of relax.Call
        Calls of `mod` that the rule does not see.

    Returns
    -------
    tvm.IRModule
        The rewritten module.
    """
    return _rewrite(mod, _Rewriter(mod, rule, keep))


def rewrite_layers(mod: tvm.IRModule, rule: LayerRule) -> tvm.IRModule:
    """Apply `rule` to every call and the name of the variable that it is bound to."""
    rewriter = _Rewriter(mod, lambda call, _, emit: rule(call, rewriter.layer, emit), ())
    return _rewrite(mod, rewriter)


@mutator
class _SourceRewriter(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, rule: SourceRule) -> None:
        super().__init__(mod)
        self.rule = rule
        self.uses: Counter[relax.Var] = Counter()

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        is_only_reader = [self.uses[arg] == 1 for arg in call.args]
        call = super().visit_call_(call)
        sources = [
            self.lookup_binding(arg) if only and isinstance(arg, relax.Var) else None
            for arg, only in zip(call.args, is_only_reader, strict=True)
        ]
        replacement = self.rule(call, sources)
        return call if replacement is None else replacement


def rewrite_with_sources(mod: tvm.IRModule, rule: SourceRule) -> tvm.IRModule:
    """Apply `rule`, which may merge a call with what computes its arguments, to every call."""
    rewriter = _SourceRewriter(mod, rule)
    for gvar, func in mod.functions_items():
        if isinstance(func, relax.Function):
            rewriter.uses = count_uses(func)
            rewriter.builder_.update_func(gvar, rewriter.visit_expr(func))
    return relax.transform.DeadCodeElimination()(rewriter.builder_.get())


def _rewrite(mod: tvm.IRModule, rewriter: _Rewriter) -> tvm.IRModule:
    for gvar, func in mod.functions_items():
        if isinstance(func, relax.Function):
            rewritten = relax.analysis.remove_all_unused(rewriter.visit_expr(func))
            rewriter.builder_.update_func(gvar, rewritten)
    return rewriter.builder_.get()

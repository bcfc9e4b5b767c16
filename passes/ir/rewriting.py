"""Rewriting by rules: one rule is tried at every call of the Relax functions of a module.

A rule sees a call whose arguments are already rewritten. It returns the expression that takes the
place of the call, or None. Bindings that nothing reads any more are dropped at the end.

There are three kinds of rules:

- `rewrite_calls`: the rule looks up what its arguments are bound to, however far up.
- `rewrite_layers`: the rule also sees the name of the layer that the call is.
- `rewrite_with_sources`: the rule merges a call with the call above it, which is only allowed
  where nothing else reads that one's result.

Two passes do not use this frame: `LegalizeDynamicSlice` and `LowerRegions` replace calls by
functions that they add to the module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm_ffi import structural_equal

from tvm_sparse.passes.ir.dataflow import count_uses

Lookup: TypeAlias = Callable[[relax.Expr], relax.Expr]
"""Returns the expression that a variable is bound to, and every other expression itself."""


class Emit(Protocol):
    """Binds a call to a variable above the call that a rule looks at, and returns the variable.

    A variable that has the same value already is used again. Expressions that are no calls are
    returned as they are. Reports know a layer by the name of its variable: a call of the operator
    that the rule looks at gets the name of that call, unless the rule gives another one.
    """

    def __call__(self, call: relax.Expr, name: str = "", /) -> relax.Expr:
        """Return a variable that holds `call`, named `name` if that is not empty."""
        ...


Rule: TypeAlias = Callable[[relax.Call, Lookup, Emit], "relax.Expr | None"]

SourceRule: TypeAlias = Callable[[relax.Call, Sequence[relax.Expr | None]], "relax.Expr | None"]
"""Takes a call and, for each of its arguments, the expression that computes it.

The expression is None if the argument has other readers.
"""

LayerRule: TypeAlias = Callable[[relax.Call, str, Emit], "relax.Expr | None"]
"""Takes a call and the name of the variable that it is bound to, which is the name of a layer."""


@mutator
class _Rewriter(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, rule: Rule, keep: Sequence[relax.Call]) -> None:
        super().__init__(mod)
        self.rule, self.keep, self.layer = rule, keep, ""
        self.operator: tvm.ir.Op | None = None
        self.arguments: Sequence[relax.Expr] = ()
        self.emitted: dict[tuple[str, relax.Expr], list[relax.Var]] = {}

    def visit_dataflow_block_(self, block: relax.DataflowBlock) -> relax.BindingBlock:
        # A dataflow variable is not visible outside its block.
        self.emitted.clear()
        visited = super().visit_dataflow_block_(block)
        self.emitted.clear()
        return visited

    def visit_seq_expr_(self, seq: relax.SeqExpr) -> relax.Expr:
        # A variable of one branch of an If is not visible in the other one, nor behind both.
        outside = {key: list(known) for key, known in self.emitted.items()}
        visited = super().visit_seq_expr_(seq)
        self.emitted = outside
        return visited

    def emit(self, call: relax.Expr, name: str = "", /) -> relax.Expr:
        if not isinstance(call, relax.Call):
            return call
        call = self.builder_.normalize(call)
        known = self.emitted.setdefault((call.op.name, call.args[0]), [])
        for var in known:
            if structural_equal(self.lookup(var), call):
                return var
        if not name and call.op == self.operator:
            name = self.layer
        known.append(self.builder_.emit(call, name))
        return known[-1]

    def lookup(self, value: relax.Expr) -> relax.Expr:
        bound = self.builder_.lookup_binding(value) if isinstance(value, relax.Var) else None
        return value if bound is None else bound

    def visit_dataflow_var_(self, var: relax.DataflowVar) -> relax.Expr:
        # A call that was replaced by a variable or a constant leaves a second name for it.
        renamed = super().visit_dataflow_var_(var)
        bound = self.lookup(renamed)
        return bound if isinstance(bound, relax.Var | tvm.ir.GenericConst) else renamed

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        self.layer = binding.var.name
        super().visit_var_binding_(binding)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        visited = self.builder_.normalize(super().visit_call_(call))
        self.arguments, self.operator, replacement = call.args, call.op, None
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


def rewrite_with_sources(mod: tvm.IRModule, rule: SourceRule) -> tvm.IRModule:
    """Apply `rule`, which may merge a call with the calls that compute its arguments."""
    uses: Counter[relax.Var] = Counter()
    for _, func in mod.functions_items():
        if isinstance(func, relax.Function):
            uses += count_uses(func)

    def with_sources(call: relax.Call, lookup: Lookup, _emit: Emit) -> relax.Expr | None:
        sources = [
            lookup(arg) if isinstance(before, relax.Var) and uses[before] == 1 else None
            for arg, before in zip(call.args, rewriter.arguments, strict=True)
        ]
        return rule(call, sources)

    rewriter = _Rewriter(mod, with_sources, ())
    return _rewrite(mod, rewriter)


def _rewrite(mod: tvm.IRModule, rewriter: _Rewriter) -> tvm.IRModule:
    try:
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                rewritten = relax.analysis.remove_all_unused(rewriter.visit_expr(func))
                rewriter.builder_.update_func(gvar, rewritten)
        return rewriter.builder_.get()
    finally:
        # TVM's side of the rewriter holds the rule, which may hold the rewriter: a circle that
        # Python cannot see, and that would keep the module with its weights for good.
        rewriter.rule = _no_rule


def _no_rule(call: relax.Call, lookup: Lookup, emit: Emit) -> None:
    """Leave every call as it is."""

"""Passes of TVM that a network is better compiled without."""

from __future__ import annotations

import tvm
from tvm import relax

MEMORY_PLANNING = "StaticPlanBlockMemory"
"""TVM's pass that lets tensors share memory. It gives memory that one branch of an If has allocated
to the other branch, which then reads freed memory or none."""


def without_passes(*names: str) -> tvm.transform.PassContext:
    """Return the pass context in scope, in which TVM leaves out some passes."""
    scope = tvm.transform.PassContext.current()
    return tvm.transform.PassContext(
        opt_level=scope.opt_level,
        required_pass=scope.required_pass,
        disabled_pass=[*scope.disabled_pass, *names],
        instruments=scope.instruments,
        config=scope.config,
    )


def without_assertions() -> tvm.transform.PassContext:
    """Return the pass context in scope, in which TVM leaves out what functions assert."""
    scope = tvm.transform.PassContext.current()
    return tvm.transform.PassContext(
        opt_level=scope.opt_level,
        required_pass=scope.required_pass,
        disabled_pass=scope.disabled_pass,
        instruments=scope.instruments,
        config={**scope.config, "tirx.disable_assert": True},
    )


def has_branches(mod: tvm.IRModule) -> bool:
    """Return whether a Relax function of a module has an If whose branches allocate memory."""
    found = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.If):
            branches = expr.true_branch, expr.false_branch
            if not all(map(_only_calls_functions, branches)):
                found.append(expr)

    for function in mod.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    return bool(found)


def _only_calls_functions(branch: relax.SeqExpr) -> bool:
    values = (binding.value for block in branch.blocks for binding in block.bindings)
    return all(
        isinstance(value, relax.If)
        or (isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar))
        for value in values
    )

"""Passes of TVM that a network is better compiled without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

MEMORY_PLANNING = "StaticPlanBlockMemory"
"""TVM's pass that lets tensors share memory. It gives memory that one branch of an If has allocated
to the other branch, which then reads freed memory or none."""


def without_passes(*names: str) -> tvm.transform.PassContext:
    """Return the pass context in scope, in which TVM leaves out some passes."""
    return _scope_with(names, {})


def without_assertions() -> tvm.transform.PassContext:
    """Return the pass context in scope, in which TVM leaves out what functions assert."""
    return _scope_with((), {"tirx.disable_assert": True})


def _scope_with(left_out: Sequence[str], config: Mapping[str, Any]) -> tvm.transform.PassContext:
    scope = tvm.transform.PassContext.current()
    return tvm.transform.PassContext(
        opt_level=scope.opt_level,
        required_pass=scope.required_pass,
        disabled_pass=[*scope.disabled_pass, *left_out],
        instruments=scope.instruments,
        config={**scope.config, **config},
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

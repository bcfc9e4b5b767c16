"""i // n => trunc(i / n), for the loops of a schedule and sizes that are known at run time only

Fused loops are taken apart by divisions. TVM does not know that a size is positive, so it selects
among the results for all signs, in each of the divisions inside another one. Its simplifier looks
into these for minutes, and the processor computes them. Loops and sizes are natural numbers, for
which both divisions are the same.
"""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm_ffi import structural_map, structural_walk


def with_natural_divisions(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return a function whose loops are divided by sizes as natural numbers are."""
    return func.with_body(structural_map(func.body, (s_tir.SBlockRealize, _realize)))


def _realize(realize: s_tir.SBlockRealize) -> s_tir.SBlockRealize:
    values = [_natural(v) if _is_natural(v) else v for v in realize.iter_values]
    if all(new.same_as(old) for new, old in zip(values, realize.iter_values, strict=True)):
        return realize
    return s_tir.SBlockRealize(values, realize.predicate, realize.block)


def _natural(value: tvm.ir.Expr) -> tvm.ir.Expr:
    for floored, truncated in ((tirx.FloorDiv, tirx.Div), (tirx.FloorMod, tirx.Mod)):

        def divide(node: tvm.ir.Expr, truncated: type = truncated) -> tvm.ir.Expr:
            return node if isinstance(node.b, tirx.IntImm) else truncated(node.a, node.b)

        value = structural_map(value, (floored, divide))
    return value


def _is_natural(value: tvm.ir.Expr) -> bool:
    """Return whether a value of loops and sizes is positive or zero, and so are its parts."""
    negative: list[tvm.ir.Expr] = []
    structural_walk(value, (tirx.Sub, negative.append))
    structural_walk(value, (tirx.IntImm, lambda n: negative.append(n) if n.value < 0 else None))
    return not negative

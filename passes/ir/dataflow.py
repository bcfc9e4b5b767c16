"""The variables of dataflow blocks: their expressions and their readers.

This answers questions about a module that nobody rewrites meanwhile. `rewriting` changes modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import tvm
from tvm import relax


@dataclass(frozen=True)
class Dataflow:
    """The bindings of one dataflow block.

    Attributes
    ----------
    bound : mapping of relax.Var to relax.Expr
        The expression that each variable is bound to.
    readers : mapping of relax.Var to sequence of relax.Var
        The variables of the block that are computed from each variable.
    """

    bound: Mapping[relax.Var, relax.Expr]
    readers: Mapping[relax.Var, Sequence[relax.Var]]

    def lookup(self, value: relax.Expr) -> relax.Expr:
        """Return the expression that a variable is bound to, and every other expression itself."""
        return self.bound.get(value, value)

    def is_read_only_by(self, value: relax.Expr, readers: Sequence[relax.Expr]) -> bool:
        """Whether `value` leaves the block only through `readers`."""
        return isinstance(value, relax.DataflowVar) and all(
            reader in readers for reader in self.readers[value]
        )


def dataflow_blocks(mod: tvm.IRModule) -> Iterator[Dataflow]:
    """Yield the dataflow blocks of all Relax functions of `mod`."""
    for _, func in mod.functions_items():
        for block in func.body.blocks if isinstance(func, relax.Function) else ():
            if isinstance(block, relax.DataflowBlock):
                bound = {binding.var: binding.value for binding in block.bindings}
                yield Dataflow(bound, relax.analysis.udchain(block))


def count_uses(func: relax.Function) -> Counter[relax.Var]:
    """Return how often each variable of a function is read; a second name counts as a read."""
    uses: Counter[relax.Var] = Counter()

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call):
            uses.update(a for a in expr.args if isinstance(a, relax.Var))
        elif isinstance(expr, relax.Tuple):
            uses.update(a for a in expr.fields if isinstance(a, relax.Var))
        elif isinstance(expr, relax.SeqExpr) and isinstance(expr.body, relax.Var):
            uses[expr.body] += 1
        elif isinstance(expr, relax.Function):
            for block in expr.body.blocks:
                uses.update(b.value for b in block.bindings if isinstance(b.value, relax.Var))

    relax.analysis.post_order_visit(func, visit)
    return uses

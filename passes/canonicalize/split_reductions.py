"""max(x) of a whole tensor => max(max(reshape(x, (rows, columns)), 0))

A reduction to a single value has no two results that vectors or threads could share. The columns of
the first step have. The same is done for minima, sums and means.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import static_shape

REDUCTIONS = ("relax.max", "relax.min", "relax.sum", "relax.mean")

LEAST_ELEMENTS = 1 << 14
"""Elements from which on two steps pay: one core copies fewer of them while a loop starts."""

COLUMNS = range(256, 2048)
"""The numbers of results of the first step: several vectors for each of many cores, and few enough
that the second step is short."""


@tvm.transform.module_pass(opt_level=0, name="SplitReductions")
class SplitReductions:
    """Reduce whole tensors in two steps."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with its reductions of whole tensors in two steps."""
        return rewrite_calls(mod, _split)


def _split(call: relax.Call, _lookup: Lookup, emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, *REDUCTIONS):
        return None
    (x,) = call.args
    shape, result = static_shape(x), static_shape(call)
    if shape is None or result is None or math.prod(result) != 1:
        return None
    elements = math.prod(shape)
    columns = next((n for n in reversed(COLUMNS) if elements % n == 0), 0)
    if elements < LEAST_ELEMENTS or not columns:
        return None
    table = emit(relax.op.reshape(x, (elements // columns, columns)))
    reduce = getattr(relax.op, call.op.name.removeprefix("relax."))
    return relax.op.reshape(emit(reduce(emit(reduce(table, 0)), 0)), result)

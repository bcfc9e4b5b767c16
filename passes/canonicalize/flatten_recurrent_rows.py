"""recurrent(x w + b) => recurrent(reshape(reshape(x, (rows, channels)) w + b))

The steps of all sequences are the rows of one product. With an axis for the sequences of a batch,
each step would begin a panel of its own, whose lanes a small batch does not fill.

Runs after `RecomposeAttention`, which moves reshapes below products.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import constant_rank, is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import extents_of, known_extents, reshaped


@tvm.transform.module_pass(opt_level=0, name="FlattenRecurrentRows")
class FlattenRecurrentRows:
    """Make one axis of the steps and sequences that a recurrent layer reads."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with the products of recurrent layers on two axes."""
        return rewrite_calls(mod, _flatten)


def _flatten(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, operators.RECURRENT.name) or "tiling" in call.attrs:
        return None
    named = operators.recurrent_operands(call)
    source, bias = lookup(named["xw"]), None
    while is_call_to(source, "relax.reshape"):
        source = lookup(source.args[0])
    if is_call_to(source, "relax.add") and constant_rank(source.args[1]) == 1:
        source, bias = lookup(source.args[0]), source.args[1]
    if not is_call_to(source, "relax.matmul") or constant_rank(source.args[1]) != 2:
        return None
    x, weight = source.args
    *leading, channels = extents_of(x) or ()
    if len(leading) < 2:
        return None
    rows = emit(reshaped(x, (math.prod(leading), channels)))
    product = emit(relax.op.matmul(rows, weight))
    if bias is not None:
        product = emit(relax.op.add(product, bias))
    named["xw"] = emit(reshaped(product, known_extents(named["xw"])))
    return operators.recurrent(operators.recurrent_of(call), named)

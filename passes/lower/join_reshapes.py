"""reshape(reshape(x)) => reshape(x)

TVM fuses two reshapes into one kernel, which copies. A single one becomes a view.

Runs after `LowerOperators`, which reshapes what kernels take and return.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import extents_of, reshaped
from tvm_sparse.passes.ir.view_chains import RESHAPING


@tvm.transform.module_pass(opt_level=0, name="JoinReshapes")
class JoinReshapes:
    """Make one reshape of those that follow one another."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without reshapes of what was reshaped."""
        return rewrite_calls(mod, _joined)


def _joined(call: relax.Call, lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    shape = extents_of(call)
    if not is_call_to(call, *RESHAPING) or shape is None:
        return None
    source = lookup(call.args[0])
    if not is_call_to(source, *RESHAPING):
        return None
    while is_call_to(lookup(source.args[0]), *RESHAPING):
        source = lookup(source.args[0])
    return reshaped(source.args[0], shape)

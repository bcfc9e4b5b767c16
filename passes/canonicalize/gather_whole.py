"""GatherWhole: take(x, places of all elements) => reshape(x)

PyTorch's exporters index a mask of tokens by all of its own places, at ``tokens * i + j`` or at the
pairs ``(i, j)``. That is the mask in another shape.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.places import Places
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import reshaped
from tvm_sparse.passes.ir.views import View


@tvm.transform.module_pass(opt_level=0, name="GatherWhole")
class GatherWhole:
    """Replace what takes all elements of a tensor in their order."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with views in place of such gathers."""
        return rewrite_calls(mod, _rewrite)


def _rewrite(call: relax.Call, lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, "relax.take", "relax.gather_nd"):
        return None
    whole = View.whole(call.args[0])
    gathered = None if whole is None else Places(lookup).gathered(whole, call)
    if whole is None or gathered is None:
        return None
    in_order = (gathered.atoms, gathered.offset) == (whole.atoms, 0)
    return reshaped(call.args[0], gathered.shape) if in_order else None

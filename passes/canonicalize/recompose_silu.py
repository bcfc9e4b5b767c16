r"""SiLU, written as several operators => relax.nn.silu.

.. math::

    \mathrm{silu}(x) = x \, \sigma(x)

(Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2; also called swish.)
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls


@tvm.transform.module_pass(opt_level=0, name="RecomposeSilu")
class RecomposeSilu:
    """Recompose `relax.nn.silu`."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with every written-out SiLU as one operator."""
        return rewrite_calls(mod, _silu)


def _silu(call: relax.Call, lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, "relax.multiply"):
        return None
    a, b = call.args
    for x, gate in ((a, lookup(b)), (b, lookup(a))):
        if is_call_to(gate, "relax.sigmoid") and gate.args[0].same_as(x):
            return relax.op.nn.silu(x)
    return None

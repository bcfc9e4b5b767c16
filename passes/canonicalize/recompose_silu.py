r"""What exporters write out for SiLU => relax.nn.silu.

.. math::

    \mathrm{silu}(x) = x \, \sigma(x)

(Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2; also called swish.)
"""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import relax
from tvm.relax.dpl import DFPattern, is_op, rewrite_call, wildcard


@tvm.transform.module_pass(opt_level=0, name="RecomposeSilu")
class RecomposeSilu:
    """Recompose `relax.nn.silu`."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with every written-out SiLU as one operator."""
        x = wildcard()
        gate = is_op("relax.sigmoid")(x)
        pattern = is_op("relax.multiply")(x, gate) | is_op("relax.multiply")(gate, x)

        def rewrite(_call: relax.Call, found: Mapping[DFPattern, relax.Expr]) -> relax.Expr:
            return relax.op.nn.silu(found[x])

        after = mod.clone()
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                rewritten = rewrite_call(pattern, rewrite, func)
                after[gvar] = relax.analysis.remove_all_unused(rewritten)
        return after

r"""A square, written as several operators => relax.multiply.

.. math::

    \mathrm{power}(x, 2) \to x \cdot x
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to, uniform_value
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls


@tvm.transform.module_pass(opt_level=0, name="RecomposeSquare")
class RecomposeSquare:
    """Square by a multiplication instead of by logarithm and exponential."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` without powers of two."""
        return rewrite_calls(mod, _square)


def _square(call: relax.Call, _lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, "relax.power") or uniform_value(call.args[1]) != 2:
        return None
    base = call.args[0]
    same_type = tvm_ffi.structural_equal(base.ty, call.ty)
    return relax.op.multiply(base, base) if same_type else None

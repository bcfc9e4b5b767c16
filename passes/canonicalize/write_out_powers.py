r"""WriteOutPowers: power(x, n) => x * x * ...

.. math::

    \mathrm{power}(x, 2) &\to x \cdot x \\
    \mathrm{power}(x, 3) &\to (x \cdot x) \cdot x \\
    \mathrm{power}(x, 4) &\to (x \cdot x) \cdot (x \cdot x)

A power is computed by logarithm and exponential otherwise. The pass runs before constants are
folded: TVM warns of every higher power that it looks at then.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to, uniform_value
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls


@tvm.transform.module_pass(opt_level=0, name="WriteOutPowers")
class WriteOutPowers:
    """Compute the second, third and fourth power by multiplications."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with small powers as products."""
        return rewrite_calls(mod, _product)


def _product(call: relax.Call, _lookup: Lookup, emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, "relax.power"):
        return None
    x, exponent = call.args[0], uniform_value(call.args[1])
    if exponent not in (2, 3, 4) or not tvm_ffi.structural_equal(x.ty, call.ty):
        return None
    if exponent == 2:
        return relax.op.multiply(x, x)
    square = emit(relax.op.multiply(x, x))
    return relax.op.multiply(square, x if exponent == 3 else square)

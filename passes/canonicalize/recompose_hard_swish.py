r"""HardSwish, written as several operators => tvm_sparse.hardswish.

.. math::

    \mathrm{hardswish}(x) = x \, \min(\max(x / 6 + 1 / 2, 0), 1)

(Howard et al., "Searching for MobileNetV3", 2019, equation 1 and above it.) The factor is a
linear function of x that is limited and scaled, in any order: ``clip(x + 3, 0, 6) / 6`` or
``clip(x / 6 + 0.5, 0, 1)``.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.passes.canonicalize.polynomial import (
    TOLERANCE,
    Polynomial,
    equal,
    operands,
    polynomial,
)
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import extents_of

_FACTOR: Polynomial = {(1,): 1 / 6, (0,): 0.5}


@tvm.transform.module_pass(opt_level=0, name="RecomposeHardSwish")
class RecomposeHardSwish:
    """Recompose `tvm_sparse.hardswish`."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with every written-out HardSwish as one operator."""
        return rewrite_calls(mod, _recompose)


def _recompose(call: relax.Call, lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    # The outermost operation of x clip(...) is a product, of x clip(...) / 6 it may be a division.
    if not is_call_to(call, "relax.multiply", "relax.divide") or call.ty.dtype != ACTIVATIONS:
        return None
    for limited in operands(call, lookup):
        clip = lookup(limited)
        if not is_call_to(clip, "relax.clip"):
            continue
        argument, low, high = clip.args[0], clip.args[1].value, clip.args[2].value
        for x in operands(argument, lookup):
            line = polynomial(argument, [x], lookup)
            whole = polynomial(call, [x, limited], lookup)
            if line is None or whole is None or set(whole) != {(1, 1)}:
                continue
            scale = whole[1, 1]
            factor = {power: scale * coefficient for power, coefficient in line.items()}
            limits_fit = low == 0 and math.isclose(scale * high, 1, rel_tol=TOLERANCE)
            if limits_fit and equal(factor, _FACTOR) and extents_of(call) == extents_of(x):
                return operators.hardswish(x)
    return None

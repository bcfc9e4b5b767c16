r"""GELU, written as several operators => relax.nn.gelu, relax.nn.gelu_tanh.

.. math::

    \mathrm{gelu}(x) &= \tfrac{x}{2} \left(1 + \mathrm{erf}(x / \sqrt 2)\right)

    \mathrm{gelu\_tanh}(x) &= \tfrac{x}{2}
        \left(1 + \tanh\left(\sqrt{2/\pi}\,(x + 0.044715\,x^3)\right)\right)

(Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2.) Both are polynomials of
x and t, where t is the value of erf or tanh. The argument of erf or tanh is a polynomial of x. The
pass compares coefficients, so the order of the exporter's operations does not matter.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.polynomial import Polynomial, equal, operands, polynomial
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import extents_of

_SLOPE = math.sqrt(2 / math.pi)

_ARGUMENT: dict[str, Polynomial] = {
    "relax.erf": {(1,): math.sqrt(0.5)},
    "relax.tanh": {(1,): _SLOPE, (3,): 0.044715 * _SLOPE},
}
_GELU: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
_RECOMPOSED = {"relax.erf": relax.op.nn.gelu, "relax.tanh": relax.op.nn.gelu_tanh}


@tvm.transform.module_pass(opt_level=0, name="RecomposeGelu")
class RecomposeGelu:
    """Recompose `relax.nn.gelu` and `relax.nn.gelu_tanh`."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with every written-out GELU as one operator."""
        return rewrite_calls(mod, _recompose)


def _recompose(call: relax.Call, lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    # The outermost operation of 0.5 x (1 + t) is a product, of 0.5 x + 0.5 x t a sum.
    if not is_call_to(call, "relax.multiply", "relax.add", "relax.divide"):
        return None
    for t in operands(call, lookup):
        inner = lookup(t)
        if not is_call_to(inner, *_ARGUMENT):
            continue
        name, argument = inner.op.name, inner.args[0]
        for x in operands(argument, lookup):
            reads_x = polynomial(argument, [x], lookup)
            whole = polynomial(call, [x, t], lookup)
            if (
                reads_x is not None
                and whole is not None
                and equal(reads_x, _ARGUMENT[name])
                and equal(whole, _GELU)
                and extents_of(call) == extents_of(x) is not None
            ):
                return _RECOMPOSED[name](x)
    return None

"""dynamic_strided_slice(x, begin, end, step) => shape function and kernel.

`FoldConstant` tries to legalize every call that it meets. Of this operator it would leave the call
of a shape function behind, but not the function, so this pass runs before it.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

_SLICE = tvm.ir.Op.get("relax.dynamic_strided_slice")


@tvm.transform.module_pass(opt_level=0, name="LegalizeDynamicSlice")
class LegalizeDynamicSlice:
    """Legalize slices whose bounds are known only at run time."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` without ``relax.dynamic_strided_slice``."""
        legalizer = _Legalizer(mod)
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                legalizer.builder_.update_func(gvar, legalizer.visit_expr(func))
        return legalizer.builder_.get()


@mutator
class _Legalizer(PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if call.op != _SLICE:
            return call
        return _SLICE.get_attr("FLegalize")(self.builder_, call)

"""relax.run.nonzero(x) => tvm_sparse.host.nonzero(x)

TVM legalizes operators that it does not compile to calls of functions in Python. A process that
loads TVM's runtime alone does not have those, and has ours:
`tvm_sparse.runtime.host_functions`.

Runs after `relax.transform.LegalizeOps`.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sparse.specs import HOST_FUNCTIONS

OURS = {
    f"relax.run.{name}": HOST_FUNCTIONS + name for name in ("nonzero", "shape_to_tensor", "unique")
}
"""The names of our functions, by those of TVM's."""


@tvm.transform.module_pass(opt_level=0, name="CallHostFunctions")
class CallHostFunctions:
    """Call our functions in place of TVM's."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without calls of TVM's functions in Python."""
        rewriter = _Rewriter(mod)
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                rewriter.builder_.update_func(gvar, rewriter.visit_expr(func))
        return rewriter.builder_.get()


@mutator
class _Rewriter(PyExprMutator):
    def visit_extern_func_(self, function: relax.ExternFunc) -> relax.Expr:
        ours = OURS.get(function.global_symbol)
        return relax.ExternFunc(ours) if ours else function

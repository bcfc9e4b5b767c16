"""result = call_tir(reshape, y) => v = R.reshape(y); result = v

`ViewReshapes` does this inside of a dataflow block, so that the virtual machine makes a view and
copies nothing. It leaves the results of a block alone, which might be views of something that
others read. Here, a result becomes a view if nothing else reads what it views, a kernel computes
that, and both have as many elements: TVM takes the first rows of an array for a reshape of it, too.

Runs after `ViewReshapes`.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sparse.passes.ir.dataflow import Dataflow, dataflow_blocks
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.shapes import extents_of
from tvm_sparse.passes.lower.view_reshapes import reshapes

_KERNEL = "relax.call_tir"


@tvm.transform.module_pass(opt_level=0, name="ViewResults")
class ViewResults:
    """Let results that are reshaped be views."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with reshapes instead of the copies that make its results."""
        copies = [call for block in dataflow_blocks(mod) for call in _copies(mod, block)]
        if not copies:
            return mod
        rewriter = _Rewriter(mod, copies)
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                rewriter.builder_.update_func(gvar, rewriter.visit_expr(func))
        return rewriter.builder_.get()


def _copies(mod: tvm.IRModule, block: Dataflow) -> list[relax.Call]:
    """Return the calls whose results can be views."""
    return [
        call
        for result, call in block.bound.items()
        if not isinstance(result, relax.DataflowVar)
        and is_call_to(call, _KERNEL)
        and len(call.args[1]) == 1
        and is_call_to(block.lookup(call.args[1][0]), _KERNEL)
        and block.is_read_only_by(call.args[1][0], [result])
        and reshapes(mod[call.args[0]])
        and _have_as_many_elements(call.args[1][0], result)
    ]


def _have_as_many_elements(a: relax.Expr, b: relax.Expr) -> bool:
    extents = extents_of(a), extents_of(b)
    return None not in extents and math.prod(extents[0] or ()) == math.prod(extents[1] or ())


@mutator
class _Rewriter(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, copies: Collection[relax.Call]) -> None:
        super().__init__(mod)
        self.copies = copies

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        visited = super().visit_call_(call)
        if not any(call.same_as(copy) for copy in self.copies):
            return visited
        # As a variable of the block: the result itself is a second name of it.
        return self.builder_.emit(relax.op.reshape(visited.args[1][0], call.ty.shape))

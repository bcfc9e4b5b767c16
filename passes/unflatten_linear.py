"""UnflattenLinear: matmul(reshape(x, (t, k)), w) => reshape(matmul(x, w), (t, n))

x is `(batch, tokens, ...)`, its last dimensions making up k, and t = batch * tokens: what an
exporter makes of a linear layer on batched tokens when it has only Gemm, a product of matrices.
Undone, the sequences of a batch stay apart, as attention needs them.

Runs before `SparsifyWeights`.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sparse.passes.operators import is_call_to, static_shape


@tvm.transform.module_pass(opt_level=0, name="UnflattenLinear")
class UnflattenLinear:
    """Apply linear layers to batched tokens, not to flattened ones."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its linear layers unflattened."""
        rewriter = _Unflattener(mod)
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                rewriter.builder_.update_func(gvar, rewriter.visit_expr(func))
        return relax.transform.DeadCodeElimination()(rewriter.builder_.get())


@mutator
class _Unflattener(PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        shape = static_shape(call)
        if not is_call_to(call, "relax.matmul") or shape is None or len(shape) != 2:
            return call
        flat, weight = call.args
        reshape = self.lookup_binding(flat) if isinstance(flat, relax.Var) else None
        if not is_call_to(reshape, "relax.reshape"):
            return call
        source = reshape.args[0]
        batched = _batched(static_shape(source), static_shape(flat)[-1])
        if batched is None:
            return call
        if static_shape(source) != batched:
            source = self.builder_.emit(relax.op.reshape(source, batched))
        product = self.builder_.emit(relax.op.matmul(source, weight))
        return relax.op.reshape(product, shape)


def _batched(shape: tuple[int, ...] | None, channels: int) -> tuple[int, ...] | None:
    """Return `shape` with its last dimensions joined into the channels, if tokens are batched."""
    for axis in range(2, len(shape or ())):
        if math.prod(shape[axis:]) == channels:
            return (*shape[:axis], channels)
    return None

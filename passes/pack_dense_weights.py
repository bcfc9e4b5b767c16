"""PackDenseWeights: matmul(x, w) => from_panels(linear(to_panels(x), pack(w)))

w is a constant that `SparsifyWeights` left alone. The dense kernel works on the same panels as the
sparse one, so that a network with both kinds of layers changes its layout only at its borders.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sparse.passes import operators
from tvm_sparse.passes.constant_linear import match_constant_linear
from tvm_sparse.schedules.linear import pack_linear
from tvm_sparse.targets import CpuProfile


@tvm.transform.module_pass(opt_level=0, name="PackDenseWeights")
class PackDenseWeights:
    """Rewrite every remaining linear layer with a constant weight."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = target if isinstance(target, CpuProfile) else CpuProfile.from_target(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its dense linear layers rewritten."""
        rewriter = _Packer(mod, self.cpu)
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                rewriter.builder_.update_func(gvar, rewriter.visit_expr(func))
        return rewriter.builder_.get()


@mutator
class _Packer(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, cpu: CpuProfile) -> None:
        super().__init__(mod)
        self.cpu = cpu

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        layer = match_constant_linear(call, self.cpu)
        if layer is None:
            return call
        panels = self.builder_.emit(operators.to_panels(layer.x, layer.layout.lanes))
        weight = relax.const(pack_linear(layer.weight, self.cpu))
        product = operators.linear(panels, weight, layer.weight.shape[0])
        return operators.from_panels(self.builder_.emit(product), layer.out_shape)

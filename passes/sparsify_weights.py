"""SparsifyWeights: matmul(x, w) => from_panels(sparse_linear(to_panels(x), pack(w)))

w is a constant, mostly zeros. Which weights are worth it is the cost model's choice; a dense or
nearly dense weight stays as it is. Every decision is written to the module attribute
``tvm_sparse.layers``: `{"layer", "shape", "density", "kernel", "reason"}`.

Runs after constants are folded, and before anything is legalized.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sparse import cost_model
from tvm_sparse.formats import PackedSparse
from tvm_sparse.passes import operators
from tvm_sparse.passes.constant_linear import ConstantLinear, match_constant_linear
from tvm_sparse.targets import CpuProfile

LAYERS = "tvm_sparse.layers"


@tvm.transform.module_pass(opt_level=0, name="SparsifyWeights")
class SparsifyWeights:
    """Rewrite every pruned linear layer that the cost model wants sparse.

    Parameters
    ----------
    target : tvm.target.Target or CpuProfile
        What the module is compiled for.
    """

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = target if isinstance(target, CpuProfile) else CpuProfile.from_target(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its pruned linear layers rewritten."""
        rewriter = _Sparsifier(mod, self.cpu)
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                rewriter.builder_.update_func(gvar, rewriter.visit_expr(func))
        return rewriter.builder_.get().with_attr(LAYERS, rewriter.decisions)


@mutator
class _Sparsifier(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, cpu: CpuProfile) -> None:
        super().__init__(mod)
        self.cpu = cpu
        self.layer = ""
        self.decisions: list[dict[str, Any]] = []

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        self.layer = binding.var.name
        super().visit_var_binding_(binding)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        layer = match_constant_linear(call, self.cpu)
        product = self._rewrite(layer) if layer is not None else None
        return call if product is None else product

    def _rewrite(self, layer: ConstantLinear) -> relax.Call | None:
        out_channels, in_channels = layer.weight.shape
        density = np.count_nonzero(layer.weight) / max(layer.weight.size, 1)
        lanes = layer.lanes
        shape = (out_channels, in_channels, density)
        choice = cost_model.sparse_pays(*shape, layer.rows, lanes, self.cpu)
        self.decisions.append(
            {
                "layer": self.layer,
                "shape": [out_channels, in_channels],
                "density": density,
                "kernel": "sparse_linear" if choice.sparse else "linear",
                "reason": choice.reason,
            }
        )
        if not choice.sparse:
            return None
        tiling = cost_model.sparse_tiling(out_channels, in_channels, layer.rows, lanes, self.cpu)
        packed = PackedSparse.from_dense(layer.weight, lanes, tiling)
        arrays = (packed.indptr, packed.channels, packed.offsets, packed.values)
        product = operators.sparse_linear(
            self.builder_.emit(layer.panels),
            [relax.const(a) for a in arrays],
            {"channels": out_channels, "tiling": dataclasses.asdict(tiling)},
        )
        return layer.read(self.builder_.emit(product))

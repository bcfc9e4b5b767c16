"""PackDenseWeights: matmul(x, w) => from_panels(linear(to_panels(x), pack(w)))

w is a constant that `SparsifyWeights` left alone. The dense kernel works on the same panels as the
sparse one, so that a network with both kinds of layers changes its layout only at its borders.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_sparse.passes import operators
from tvm_sparse.passes.constant_linear import match_constant_linear
from tvm_sparse.passes.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.schedules.linear import pack_linear
from tvm_sparse.targets import CpuProfile


@tvm.transform.module_pass(opt_level=0, name="PackDenseWeights")
class PackDenseWeights:
    """Rewrite every remaining linear layer with a constant weight."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = target if isinstance(target, CpuProfile) else CpuProfile.from_target(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its dense linear layers rewritten."""
        return rewrite_calls(mod, self._pack)

    def _pack(self, call: relax.Call, _lookup: Lookup, emit: Emit) -> relax.Expr | None:
        layer = match_constant_linear(call, self.cpu)
        if layer is None:
            return None
        weight = relax.const(pack_linear(layer.weight, self.cpu))
        product = operators.linear(emit(layer.panels), weight, layer.weight.shape[0])
        return layer.read(emit(product))

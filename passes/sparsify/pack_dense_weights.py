"""PackDenseWeights: matmul(x, w) => from_panels(linear(to_panels(x), pack(w)))

w is a constant that `SparsifyWeights` left alone; a convolution by such a weight likewise becomes a
`conv2d` or a `depthwise_conv2d` between `image_to_panels` and `panels_to_image`. The dense kernels
work on the same panels as the sparse ones, so that a network with both kinds of layers changes its
layout only at its borders.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.dense import pack_conv2d, pack_linear
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.rewriting import Emit, rewrite_layers
from tvm_sparse.passes.sparsify.constant_layers import match_layer
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.choice import DenseTiling, dense_tiling
from tvm_sparse.tilings.families import KernelFor, by_cost_model
from tvm_sparse.tilings.layer import Tiling
from tvm_sparse.tilings.sparse_conv2d import DenseConvTiling, dense_conv_tiling


@tvm.transform.module_pass(opt_level=0, name="PackDenseWeights")
class PackDenseWeights:
    """Rewrite every remaining linear layer and convolution with a constant weight.

    Parameters
    ----------
    target : tvm.target.Target or CpuProfile
        What the module is compiled for.
    kernel_for : callable
        Kernels that were measured, which the cost model's give way to.
    """

    def __init__(
        self, target: tvm.target.Target | CpuProfile, kernel_for: KernelFor = by_cost_model
    ) -> None:
        self.cpu, self.kernel_for = CpuProfile.of(target), kernel_for

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its dense layers rewritten."""
        return rewrite_layers(mod, self._pack)

    def _pack(self, call: relax.Call, name: str, emit: Emit) -> relax.Expr | None:
        found = match_layer(call, self.cpu)
        if found is None:
            return None
        tiling = self.kernel_for(found.layer)
        panels, problem = emit(found.panels), found.layer.problem
        product = dense_layer(panels, found.weight, problem, tiling, self.cpu)
        return found.read(emit(operators.of_layer(product, name)))


def dense_layer(
    panels: relax.Expr,
    weight: NDArray[np.float32],
    problem: Linear | Conv2d,
    tiling: Tiling | None,
    cpu: CpuProfile,
) -> relax.Call:
    """Return the call that computes a layer densely, as the cost model says without a `tiling`."""
    fields = {} if tiling is None else dataclasses.asdict(tiling)
    if isinstance(problem, Linear):
        assert tiling is None or isinstance(tiling, DenseTiling)
        block = (tiling or dense_tiling(problem.n, cpu)).channels
        packed = relax.const(pack_linear(weight, block))
        return operators.linear(panels, packed, problem.n, fields)
    if problem.is_depthwise:
        return operators.depthwise_conv2d(panels, relax.const(weight), problem, fields)
    assert tiling is None or isinstance(tiling, DenseConvTiling)
    block = (tiling or dense_conv_tiling(problem, cpu)).channels
    packed = relax.const(pack_conv2d(weight, problem.groups, block))
    return operators.conv2d(panels, packed, problem, fields)

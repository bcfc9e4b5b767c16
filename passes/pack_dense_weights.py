"""PackDenseWeights: matmul(x, w) => from_panels(linear(to_panels(x), pack(w)))

w is a constant that `SparsifyWeights` left alone; a convolution by such a weight likewise becomes a
`conv2d` or a `depthwise_conv2d` between `image_to_panels` and `panels_to_image`. The dense kernels
work on the same panels as the sparse ones, so that a network with both kinds of layers changes its
layout only at its borders.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_sparse.convolution import Conv2d
from tvm_sparse.passes import operators
from tvm_sparse.passes.constant_linear import match_constant_linear, match_conv2d
from tvm_sparse.passes.rewriting import Emit, rewrite_layers
from tvm_sparse.schedules.conv2d import pack_conv2d
from tvm_sparse.schedules.linear import pack_linear
from tvm_sparse.targets import CpuProfile


@tvm.transform.module_pass(opt_level=0, name="PackDenseWeights")
class PackDenseWeights:
    """Rewrite every remaining linear layer and convolution with a constant weight."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its dense layers rewritten."""
        return rewrite_layers(mod, self._pack)

    def _pack(self, call: relax.Call, layer: str, emit: Emit) -> relax.Expr | None:
        linear = match_constant_linear(call, self.cpu)
        if linear is not None:
            weight = relax.const(pack_linear(linear.weight, self.cpu))
            product = operators.linear(emit(linear.panels), weight, linear.weight.shape[0])
            return linear.read(emit(operators.of_layer(product, layer)))
        conv = match_conv2d(call, self.cpu)
        return self._pack_conv2d(call, conv, layer, emit) if conv is not None else None

    def _pack_conv2d(self, call: relax.Call, conv: Conv2d, layer: str, emit: Emit) -> relax.Call:
        x, weight = call.args
        panels = emit(operators.image_to_panels(x, conv.lanes_in))
        if conv.groups == conv.channels == conv.out_channels:
            product = operators.depthwise_conv2d(panels, weight, conv)
        else:
            packed = relax.const(pack_conv2d(weight.value.numpy(), conv, self.cpu))
            product = operators.conv2d(panels, packed, conv)
        shape = (conv.batch, conv.out_channels, conv.out_height, conv.out_width)
        return operators.panels_to_image(emit(operators.of_layer(product, layer)), shape)

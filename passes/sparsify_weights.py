"""SparsifyWeights: matmul(x, w) => from_panels(sparse_linear(to_panels(x), pack(w)))

w is a constant, mostly zeros; a convolution by such a weight likewise becomes a `sparse_conv2d`
between `image_to_panels` and `panels_to_image`. Which weights are worth it is the cost model's
choice; a dense or nearly dense weight stays as it is. Every decision is written to the module
attribute ``tvm_sparse.layers``: `{"layer", "shape", "density", "kernel", "reason"}`.

Runs after constants are folded, and before anything is legalized.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse import cost_model
from tvm_sparse.conv_cost_model import sparse_conv_pays, sparse_conv_tiling
from tvm_sparse.convolution import Conv2d
from tvm_sparse.cost_model import Choice
from tvm_sparse.formats import PackedSparse
from tvm_sparse.passes import operators
from tvm_sparse.passes.constant_linear import (
    ConstantLinear,
    match_constant_linear,
    match_conv2d,
)
from tvm_sparse.passes.rewriting import Emit, rewrite_layers
from tvm_sparse.targets import CpuProfile

LAYERS = "tvm_sparse.layers"


@tvm.transform.module_pass(opt_level=0, name="SparsifyWeights")
class SparsifyWeights:
    """Rewrite every pruned linear layer and convolution that the cost model wants sparse.

    Parameters
    ----------
    target : tvm.target.Target or CpuProfile
        What the module is compiled for.
    """

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its pruned layers rewritten."""
        decisions: list[dict[str, Any]] = []

        def sparsify(call: relax.Call, layer: str, emit: Emit) -> relax.Expr | None:
            linear = match_constant_linear(call, self.cpu)
            if linear is not None:
                choice = self._choose_linear(linear)
                decisions.append(_decision(layer, call, choice, "linear"))
                return self._sparse_linear(linear, layer, emit) if choice.sparse else None
            conv = match_conv2d(call, self.cpu)
            if conv is not None:
                density = _density(call.args[1].value.numpy())
                choice = sparse_conv_pays(conv, density, self.cpu)
                decisions.append(_decision(layer, call, choice, "conv2d"))
                return self._sparse_conv2d(call, conv, layer, emit) if choice.sparse else None
            return None

        return rewrite_layers(mod, sparsify).with_attr(LAYERS, decisions)

    def _choose_linear(self, layer: ConstantLinear) -> Choice:
        n, k = layer.weight.shape
        density = _density(layer.weight)
        return cost_model.sparse_pays(n, k, density, layer.rows, layer.lanes, self.cpu)

    def _sparse_linear(self, linear: ConstantLinear, layer: str, emit: Emit) -> relax.Call:
        n, k = linear.weight.shape
        tiling = cost_model.sparse_tiling(n, k, linear.rows, linear.lanes, self.cpu)
        packed = PackedSparse.from_dense(linear.weight, linear.lanes, tiling)
        attrs = {"channels": n, "tiling": dataclasses.asdict(tiling)}
        product = operators.sparse_linear(emit(linear.panels), _constants(packed), attrs)
        return linear.read(emit(operators.of_layer(product, layer)))

    def _sparse_conv2d(self, call: relax.Call, conv: Conv2d, layer: str, emit: Emit) -> relax.Call:
        weight = call.args[1].value.numpy()
        tiling = sparse_conv_tiling(conv, _density(weight), self.cpu)
        packed = PackedSparse.from_conv2d(weight, conv, tiling)
        panels = emit(operators.image_to_panels(call.args[0], conv.lanes_in))
        product = operators.sparse_conv2d(
            panels, _constants(packed), conv, dataclasses.asdict(tiling)
        )
        shape = (conv.batch, conv.out_channels, conv.out_height, conv.out_width)
        return operators.panels_to_image(emit(operators.of_layer(product, layer)), shape)


def _density(weight: NDArray[np.float32]) -> float:
    return np.count_nonzero(weight) / max(weight.size, 1)


def _constants(packed: PackedSparse) -> list[relax.Expr]:
    arrays = (packed.indptr, packed.channels, packed.offsets, packed.values)
    return [relax.const(array) for array in arrays]


def _decision(layer: str, call: relax.Call, choice: Choice, kernel: str) -> dict[str, Any]:
    weight = call.args[1].value.numpy()
    shape = weight.T.shape if weight.ndim == 2 else weight.shape
    return {
        "layer": layer,
        "shape": list(shape),
        "density": _density(weight),
        "kernel": f"sparse_{kernel}" if choice.sparse else kernel,
        "reason": choice.reason,
    }

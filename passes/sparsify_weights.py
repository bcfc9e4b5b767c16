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

from tvm_sparse.convolution import Conv2d
from tvm_sparse.cost_model import Choice
from tvm_sparse.formats import PackedSparse, SparseConvTiling, SparseTiling
from tvm_sparse.layer_kernels import (
    KernelFor,
    Layer,
    Linear,
    by_cost_model,
    sparse_kernel,
    sparse_or_dense,
)
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
    kernel_for : callable
        Kernels that were measured, which the cost model's give way to.
    """

    def __init__(
        self, target: tvm.target.Target | CpuProfile, kernel_for: KernelFor = by_cost_model
    ) -> None:
        self.cpu, self.kernel_for = CpuProfile.of(target), kernel_for

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its pruned layers rewritten."""
        decisions: list[dict[str, Any]] = []

        def sparsify(call: relax.Call, layer: str, emit: Emit) -> relax.Expr | None:
            linear = match_constant_linear(call, self.cpu)
            conv = match_conv2d(call, self.cpu) if linear is None else None
            if linear is not None:
                choice, tiling = self._choose(linear.layer)
                decisions.append(_decision(layer, call, choice, "linear"))
                return _sparse_linear(linear, tiling, layer, emit) if tiling else None
            if conv is not None:
                problem = Layer(conv, _density(call.args[1].value.numpy()))
                choice, tiling = self._choose(problem)
                decisions.append(_decision(layer, call, choice, "conv2d"))
                return _sparse_conv2d(call, conv, tiling, layer, emit) if tiling else None
            return None

        return rewrite_layers(mod, sparsify).with_attr(LAYERS, decisions)

    def _choose(self, layer: Layer) -> tuple[Choice, SparseTiling | None]:
        """Return sparse or dense, and the tiling if it is sparse."""
        choice = sparse_or_dense(layer, self.cpu)
        measured = self.kernel_for(layer)
        if measured is None:
            return choice, sparse_kernel(layer, self.cpu) if choice.sparse else None
        sparse = measured if isinstance(measured, SparseTiling) else None
        if choice.sparse != bool(sparse):
            reason = f"{1 - layer.density:.0%} zeros: measured to be faster {_kind(sparse)}"
            choice = dataclasses.replace(choice, sparse=bool(sparse), reason=reason)
        return choice, sparse


def _kind(sparse: SparseTiling | None) -> str:
    return "sparse" if sparse else "dense"


def _sparse_linear(
    linear: ConstantLinear, tiling: SparseTiling, layer: str, emit: Emit
) -> relax.Call:
    problem = linear.layer.problem
    product = sparse_layer(emit(linear.panels), linear.weight, problem, tiling)
    return linear.read(emit(operators.of_layer(product, layer)))


def _sparse_conv2d(
    call: relax.Call, conv: Conv2d, tiling: SparseTiling, layer: str, emit: Emit
) -> relax.Call:
    panels = emit(operators.image_to_panels(call.args[0], conv.lanes_in))
    product = sparse_layer(panels, call.args[1].value.numpy(), conv, tiling)
    shape = (conv.batch, conv.out_channels, conv.out_height, conv.out_width)
    return operators.panels_to_image(emit(operators.of_layer(product, layer)), shape)


def sparse_layer(
    panels: relax.Expr,
    weight: NDArray[np.float32],
    problem: Linear | Conv2d,
    tiling: SparseTiling,
) -> relax.Call:
    """Return the call that computes a layer by a sparse kernel."""
    fields = dataclasses.asdict(tiling)
    if isinstance(problem, Linear):
        packed = PackedSparse.from_dense(weight, problem.lanes, tiling)
        attrs = {"channels": problem.n, "tiling": fields}
        return operators.sparse_linear(panels, _constants(packed), attrs)
    assert isinstance(tiling, SparseConvTiling)
    packed = PackedSparse.from_conv2d(weight, problem, tiling)
    return operators.sparse_conv2d(panels, _constants(packed), problem, fields)


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

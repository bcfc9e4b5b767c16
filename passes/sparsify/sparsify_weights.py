"""SparsifyWeights: matmul(x, w) => from_panels(sparse_linear(to_panels(x), pack(w)))

w is a constant, mostly zeros. A convolution with such a weight likewise becomes a `sparse_conv2d`
between `image_to_panels` and `panels_to_image`. The cost model chooses the weights for which this
is faster; the others stay as they are. Every decision is added to the module attribute `LAYERS`.

Runs after constants are folded, and before anything is legalized.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.joined import JoinedLinearTiling, JoinedTiling, joined_layout
from tvm_sparse.formats.rows import tile_channels
from tvm_sparse.formats.sparse import PackedSparse, SparseConvTiling, SparseTiling
from tvm_sparse.formats.windows import WindowSparse
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.shapes import is_symbolic
from tvm_sparse.passes.sparsify.constant_layers import (
    Compute,
    ConstantLayer,
    rewrite_constant_layers,
)
from tvm_sparse.passes.sparsify.decisions import decision, with_decisions
from tvm_sparse.passes.sparsify.quantized_layer import is_of_integers, quantized_layer
from tvm_sparse.passes.sparsify.weights_pass import WeightsPass
from tvm_sparse.schedules.emit.windows import WINDOW_ARRAYS
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.choice import Choice
from tvm_sparse.tilings.families import (
    Tiling,
    dense_family,
    family_of,
    sparse_family,
    sparse_or_dense,
)
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.integers import IntegerFamily
from tvm_sparse.tilings.joined_conv2d import (
    JOINED_CONV2D_FAMILY,
    JOINED_LINEAR_FAMILY,
    as_conv2d,
)
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.row_linear import SPARSE_ROW_LINEAR_FAMILY, SparseRowTiling
from tvm_sparse.tilings.sparse_conv2d import SPARSE_CONV2D_FAMILY
from tvm_sparse.tilings.sparse_linear import SPARSE_LINEAR_FAMILY, cut_in_parts

"""The attribute of the module."""


@tvm.transform.module_pass(opt_level=0, name="SparsifyWeights")
class SparsifyWeights(WeightsPass):
    """Rewrite the pruned linear layers and convolutions that are faster with a sparse kernel.

    Parameters are those of `WeightsPass`.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its pruned layers rewritten."""
        decisions: list[dict[str, Any]] = []

        def sparsify(found: ConstantLayer, name: str) -> Compute | None:
            choice, tiling = self._choose(found)
            decisions.append(_decision(name, found, choice, self.cpu))
            if tiling is None:
                return None
            if isinstance(found.layer.problem, Linear) and is_symbolic(found.out_shape):
                tiling = self._in_parts(found, tiling)
            if is_of_integers(tiling):
                return lambda panels: quantized_layer(panels, found, tiling, self.cpu)
            return lambda panels: sparse_layer(
                found.rounded(panels, self.cpu), found.weight, found.layer, tiling
            )

        rewritten = rewrite_constant_layers(mod, self.cpu, sparsify, keep_float32=self.keep_float32)
        return with_decisions(rewritten, decisions)

    def _in_parts(self, found: ConstantLayer, tiling: Tiling) -> Tiling:
        """Return the tiling with which cores can share a row, if an inference has few rows."""
        if not isinstance(tiling, SparseTiling):
            return tiling
        return cut_in_parts(tiling, found.layer.problem.n, self.cpu.cores)

    def _choose(self, found: ConstantLayer) -> tuple[Choice, Tiling | None]:
        """Return sparse or dense, and the tiling if it is sparse."""
        layer = found.layer
        choice = sparse_or_dense(layer, self.cpu, (found.dense or found).layer)
        measured = self.kernel_for(layer)
        if measured is None:
            family = sparse_family(layer, self.cpu)
            return choice, family.default(layer, self.cpu) if choice.sparse else None
        sparse = measured if family_of(measured).is_sparse else None
        if choice.sparse != bool(sparse):
            reason = f"{1 - layer.density:.0%} zeros: measured to be faster {_kind(sparse)}"
            choice = dataclasses.replace(choice, sparse=bool(sparse), reason=reason)
        return choice, sparse


def _kind(sparse: Tiling | None) -> str:
    return "sparse" if sparse else "dense"


def sparse_layer(
    panels: relax.Expr, weight: NDArray[np.float32], layer: Layer[Any], tiling: Tiling
) -> relax.Call:
    """Return the call that computes a layer by a sparse kernel."""
    weight = np.ascontiguousarray(weight)
    return _CALLS[family_of(tiling).name](panels, weight, layer.problem, tiling)


def _sparse_linear(
    panels: relax.Expr, weight: NDArray[np.float32], problem: Linear, tiling: SparseTiling
) -> relax.Call:
    packed = PackedSparse.from_dense(weight, problem.lanes, tiling)
    fields = dataclasses.asdict(tiling)
    constants = _constants(packed, problem.dtype)
    return operators.sparse_linear(panels, constants, problem.n, fields)


def _sparse_row_linear(
    panels: relax.Expr, weight: NDArray[np.float32], problem: Linear, tiling: SparseRowTiling
) -> relax.Call:
    tiles = tile_channels(problem.n, tiling.units).reshape(-1, tiling.vectors, tiling.width)
    packed = WindowSparse.from_dense(weight[None], tiles)
    arrays = [relax.const(getattr(packed, name)) for name in WINDOW_ARRAYS]
    return operators.sparse_row_linear(panels, arrays, problem.n, dataclasses.asdict(tiling))


def _sparse_conv2d(
    panels: relax.Expr, weight: NDArray[np.float32], problem: Conv2d, tiling: SparseConvTiling
) -> relax.Call:
    packed = PackedSparse.from_conv2d(weight, problem, tiling)
    fields = dataclasses.asdict(tiling)
    constants = _constants(packed, problem.dtype)
    return operators.sparse_conv2d(panels, constants, problem, fields)


def _joined_conv2d(
    panels: relax.Expr, weight: NDArray[np.float32], problem: Conv2d, tiling: JoinedTiling
) -> relax.Call:
    layout = joined_layout(problem, tiling)
    packed = PackedSparse.pack(weight.reshape(layout.n, layout.k), layout)
    constants = _constants(packed, problem.dtype)
    return operators.joined_conv2d(panels, constants, problem, dataclasses.asdict(tiling))


def _joined_linear(
    panels: relax.Expr, weight: NDArray[np.float32], problem: Linear, tiling: JoinedLinearTiling
) -> relax.Call:
    return _joined_conv2d(panels, weight, as_conv2d(problem), tiling)


_CALLS: dict[str, Callable[..., relax.Call]] = {
    SPARSE_LINEAR_FAMILY.name: _sparse_linear,
    SPARSE_ROW_LINEAR_FAMILY.name: _sparse_row_linear,
    SPARSE_CONV2D_FAMILY.name: _sparse_conv2d,
    JOINED_CONV2D_FAMILY.name: _joined_conv2d,
    JOINED_LINEAR_FAMILY.name: _joined_linear,
}


def _constants(packed: PackedSparse, dtype: DType) -> list[relax.Expr]:
    values = packed.values.astype(dtype)
    return [relax.const(array) for array in (*packed.arrays[:-1], values)]


def _precision(family: Family[Any, Any], dtype: DType) -> str:
    """Return the type of the numbers that a kernel multiplies."""
    if isinstance(family, IntegerFamily):
        return "int8"
    return "bfloat16" if family.name.startswith("amx") else dtype


def _decision(name: str, found: ConstantLayer, choice: Choice, cpu: CpuProfile) -> dict[str, Any]:
    layer = found.layer
    if choice.sparse:
        family, problem = sparse_family(layer, cpu), layer.problem
    else:
        dense = (found.dense or found).layer
        family, problem = dense_family(dense, cpu), dense.problem
    return decision(
        name,
        found.weight_shape,
        layer.density,
        family.name,
        choice.reason,
        choice.cycles / (cpu.cores * cpu.memory_system.clock_hz),
        is_refused=choice.is_refused,
        precision=_precision(family, problem.dtype),
    )

"""PackDenseWeights: matmul(x, w) => from_panels(linear(to_panels(x), pack(w)))

w is a constant that `SparsifyWeights` left alone. A convolution by such a weight likewise becomes a
`conv2d` or a `depthwise_conv2d` between `image_to_panels` and `panels_to_image`. The dense kernels
work on the same panels as the sparse ones, so that a network with both kinds of layers changes its
layout only at its borders.
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
from tvm_sparse.formats.amx import pack_amx_linear
from tvm_sparse.formats.dense import pack_conv2d, pack_linear
from tvm_sparse.formats.rows import pack_rows
from tvm_sparse.formats.word_window import WordWindow
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.sparsify.constant_layers import (
    Compute,
    ConstantLayer,
    rewrite_constant_layers,
)
from tvm_sparse.passes.sparsify.quantized_layer import is_of_integers, quantized_layer
from tvm_sparse.passes.sparsify.weights_pass import WeightsPass
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.amx_conv2d import AMX_CONV2D_FAMILY, AmxConv2dTiling
from tvm_sparse.tilings.amx_linear import AMX_LINEAR_FAMILY, AmxLinearTiling
from tvm_sparse.tilings.conv2d import CONV2D_FAMILY, Conv2dTiling
from tvm_sparse.tilings.depthwise_conv2d import (
    DEPTHWISE_CONV2D_FAMILY,
    DepthwiseConv2dTiling,
)
from tvm_sparse.tilings.families import Tiling, dense_family, family_of
from tvm_sparse.tilings.flat_conv2d import FLAT_CONV2D_FAMILY, FlatConv2dTiling
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.linear import LINEAR_FAMILY, LinearTiling
from tvm_sparse.tilings.row_linear import ROW_LINEAR_FAMILY, RowTiling


@tvm.transform.module_pass(opt_level=0, name="PackDenseWeights")
class PackDenseWeights(WeightsPass):
    """Rewrite every remaining linear layer and convolution with a constant weight.

    Parameters are those of `WeightsPass`.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its dense layers rewritten."""

        def computed_as(found: ConstantLayer) -> ConstantLayer:
            if found.dense is None:
                return found
            measured = self.kernel_for(found.layer)
            is_dense = measured is not None and not family_of(measured).is_sparse
            return found if is_dense else found.dense

        def pack(found: ConstantLayer, _name: str) -> Compute:
            layer, cpu = found.layer, self.cpu
            tiling = self.kernel_for(layer)
            chosen = tiling or dense_family(layer, cpu).default(layer, cpu)
            if is_of_integers(chosen):
                return lambda panels: quantized_layer(panels, found, chosen, cpu)
            return lambda panels: dense_layer(
                found.rounded(panels, cpu), found.weight, layer, tiling, cpu
            )

        return rewrite_constant_layers(
            mod, self.cpu, pack, keep_float32=self.keep_float32, computed_as=computed_as
        )


def dense_layer(
    panels: relax.Expr,
    weight: NDArray[np.float32],
    layer: Layer[Any],
    tiling: Tiling | None,
    cpu: CpuProfile,
) -> relax.Call:
    """Return the call that computes a layer densely; the cost model chooses a missing `tiling`."""
    family = dense_family(layer, cpu) if tiling is None else family_of(tiling)
    fields = {} if tiling is None else family.to_fields(tiling)
    packed_for = tiling or family.default(layer, cpu)
    weight = np.ascontiguousarray(weight)
    return _CALLS[family.name](panels, weight, layer.problem, packed_for, fields)


def _linear(
    panels: relax.Expr,
    weight: NDArray[np.float32],
    problem: Linear,
    tiling: LinearTiling,
    fields: dict[str, int],
) -> relax.Call:
    packed = relax.const(pack_linear(weight, tiling.channels).astype(problem.dtype))
    return operators.linear(panels, packed, problem.n, fields)


def _amx_linear(
    panels: relax.Expr,
    weight: NDArray[np.float32],
    problem: Linear,
    tiling: AmxLinearTiling,
    fields: dict[str, int],
) -> relax.Call:
    packed = relax.const(pack_amx_linear(weight, tiling.inputs))
    return operators.amx_linear(panels, packed, problem.n, fields)


def _row_linear(
    panels: relax.Expr,
    weight: NDArray[np.float32],
    problem: Linear,
    tiling: RowTiling,
    _fields: dict[str, int],
) -> relax.Call:
    packed = relax.const(pack_rows(weight, tiling.units).astype(problem.weight_dtype))
    return operators.row_linear(panels, packed, problem.n, dataclasses.asdict(tiling))


def _conv2d(
    panels: relax.Expr,
    weight: NDArray[np.float32],
    problem: Conv2d,
    tiling: Conv2dTiling,
    fields: dict[str, int],
) -> relax.Call:
    array = pack_conv2d(weight, problem.groups, tiling.channels)
    packed = relax.const(array.astype(problem.dtype))
    return operators.conv2d(panels, packed, problem, fields)


def _flat_conv2d(
    panels: relax.Expr,
    weight: NDArray[np.float32],
    problem: Conv2d,
    tiling: FlatConv2dTiling,
    fields: dict[str, int],
) -> relax.Call:
    packed = relax.const(pack_conv2d(weight, problem.groups, tiling.channels))
    return operators.flat_conv2d(panels, packed, problem, fields)


def _amx_conv2d(
    panels: relax.Expr,
    weight: NDArray[np.float32],
    problem: Conv2d,
    tiling: AmxConv2dTiling,
    fields: dict[str, int],
) -> relax.Call:
    window = WordWindow(problem)
    packed = relax.const(pack_amx_linear(window.matrix(weight), tiling.inputs))
    return operators.amx_conv2d(panels, packed, relax.const(window.offsets()), problem, fields)


def _depthwise_conv2d(
    panels: relax.Expr,
    weight: NDArray[np.float32],
    problem: Conv2d,
    _tiling: DepthwiseConv2dTiling,
    fields: dict[str, int],
) -> relax.Call:
    return operators.depthwise_conv2d(
        panels, relax.const(weight.astype(problem.dtype)), problem, fields
    )


_CALLS: dict[str, Callable[..., relax.Call]] = {
    LINEAR_FAMILY.name: _linear,
    AMX_LINEAR_FAMILY.name: _amx_linear,
    ROW_LINEAR_FAMILY.name: _row_linear,
    CONV2D_FAMILY.name: _conv2d,
    FLAT_CONV2D_FAMILY.name: _flat_conv2d,
    AMX_CONV2D_FAMILY.name: _amx_conv2d,
    DEPTHWISE_CONV2D_FAMILY.name: _depthwise_conv2d,
}

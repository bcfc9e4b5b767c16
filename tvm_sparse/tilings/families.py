"""The kernel families, and the choice among them for a layer.

The cost models choose the kernel of a layer, unless another one was measured to be faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.joined import JoinedLinearTiling, JoinedTiling
from tvm_sparse.formats.sparse import SparseConvTiling, SparseTiling, slot_bytes
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.amx_conv2d import AMX_CONV2D_FAMILY, AmxConv2dTiling
from tvm_sparse.tilings.amx_linear import AMX_LINEAR_FAMILY, AmxLinearTiling
from tvm_sparse.tilings.block_forms import BLOCK_ROWS_FAMILIES
from tvm_sparse.tilings.block_rows import (
    BlockRowTiling,
    SparseBitmapTiling,
    SparsePairTiling,
    SparseWindowTiling,
)
from tvm_sparse.tilings.choice import Choice, choose
from tvm_sparse.tilings.conv2d import CONV2D_FAMILY, Conv2dTiling
from tvm_sparse.tilings.depthwise_conv2d import DEPTHWISE_CONV2D_FAMILY, DepthwiseConv2dTiling
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.flat_conv2d import FLAT_CONV2D_FAMILY, FlatConv2dTiling
from tvm_sparse.tilings.int8 import AnyInt8Conv2dTiling, AnyInt8LinearTiling
from tvm_sparse.tilings.int8_conv2d import (
    AMX_INT8_CONV2D_FAMILY,
    INT8_CONV2D_FAMILY,
)
from tvm_sparse.tilings.int8_linear import (
    AMX_INT8_LINEAR_FAMILY,
    INT8_LINEAR_FAMILY,
)
from tvm_sparse.tilings.int8_rows import INT8_ROW_FAMILY, Int8RowTiling
from tvm_sparse.tilings.joined_conv2d import JOINED_FAMILIES
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.linear import LINEAR_FAMILY, LinearTiling
from tvm_sparse.tilings.row_linear import (
    ROW_LINEAR_FAMILY,
    SPARSE_ROW_LINEAR_FAMILY,
    RowTiling,
    SparseRowTiling,
    delivery_cycles,
)
from tvm_sparse.tilings.sparse_conv2d import SPARSE_CONV2D_FAMILY
from tvm_sparse.tilings.sparse_int8 import (
    SPARSE_INT8_CONV2D_FAMILY,
    SPARSE_INT8_LINEAR_FAMILY,
)
from tvm_sparse.tilings.sparse_linear import SPARSE_LINEAR_FAMILY

Tiling: TypeAlias = (
    SparseTiling
    | SparseConvTiling
    | JoinedTiling
    | JoinedLinearTiling
    | SparseRowTiling
    | LinearTiling
    | AmxLinearTiling
    | RowTiling
    | BlockRowTiling
    | SparsePairTiling
    | SparseWindowTiling
    | SparseBitmapTiling
    | Conv2dTiling
    | FlatConv2dTiling
    | AmxConv2dTiling
    | DepthwiseConv2dTiling
    | Int8RowTiling
    | AnyInt8LinearTiling
    | AnyInt8Conv2dTiling
)

KernelFor: TypeAlias = Callable[[Layer[Any]], Tiling | None]
"""Returns what was measured to be the best for a layer, if something was."""

FAMILIES: tuple[Family[Any, Any], ...] = (
    SPARSE_LINEAR_FAMILY,
    SPARSE_ROW_LINEAR_FAMILY,
    SPARSE_CONV2D_FAMILY,
    LINEAR_FAMILY,
    AMX_LINEAR_FAMILY,
    ROW_LINEAR_FAMILY,
    *BLOCK_ROWS_FAMILIES,
    CONV2D_FAMILY,
    FLAT_CONV2D_FAMILY,
    DEPTHWISE_CONV2D_FAMILY,
    *JOINED_FAMILIES,
    AMX_CONV2D_FAMILY,
    INT8_LINEAR_FAMILY,
    AMX_INT8_LINEAR_FAMILY,
    INT8_CONV2D_FAMILY,
    AMX_INT8_CONV2D_FAMILY,
    SPARSE_INT8_LINEAR_FAMILY,
    SPARSE_INT8_CONV2D_FAMILY,
    INT8_ROW_FAMILY,
)

_SPECIAL = (*JOINED_FAMILIES, SPARSE_INT8_LINEAR_FAMILY, SPARSE_INT8_CONV2D_FAMILY)
"""The sparse families of special cases, whose refusals would tell less."""


LARGEST_SHARE = 0.8
"""Largest share of a linear layer's cycles with which a convolution without gaps takes its place. A
linear layer gathers nothing, and costs less in tensor columns, where it computes any rows."""


def nothing_measured(_layer: Layer[Any]) -> None:
    """Return None for any layer: no kernel of it was measured."""


def families_of(layer: Layer[Any], cpu: CpuProfile) -> list[Family[Any, Any]]:
    """Return the families that compute a layer, the sparse one first."""
    return [family for family in FAMILIES if not family.refusal(layer, cpu)]


def family_of(tiling: Tiling) -> Family[Any, Any]:
    """Return the family of a tiling."""
    return next(family for family in FAMILIES if family.tiling is type(tiling))


def dense_family(layer: Layer[Any], cpu: CpuProfile) -> Family[Any, Any]:
    """Return the fastest family that computes a layer without regard to zeros.

    Every layer has one.
    """
    dense = [family for family in families_of(layer, cpu) if not family.is_sparse]
    if len(dense) == 1:
        return dense[0]
    return min(dense, key=lambda f: f.cycles(layer, f.default(layer, cpu), cpu))


def leaves_lanes_idle(linear: Layer[Linear], conv: Layer[Conv2d], cpu: CpuProfile) -> bool:
    """Return whether a linear layer on images shall be a convolution without gaps between rows."""
    family, flat = dense_family(linear, cpu), FLAT_CONV2D_FAMILY
    if flat.refusal(conv, cpu):
        return False
    least = flat.cycles(conv, flat.default(conv, cpu), cpu)
    return least < LARGEST_SHARE * family.cycles(linear, family.default(linear, cpu), cpu)


def sparse_family(layer: Layer[Any], cpu: CpuProfile) -> Family[Any, Any]:
    """Return the sparse family of the fewest cycles; all of them may refuse the layer."""
    sizes = type(layer.problem)
    sparse = [family for family in FAMILIES if family.is_sparse and family.sizes is sizes]
    able = [family for family in sparse if not family.refusal(layer, cpu)]
    if not able:
        return [family for family in sparse if family not in _SPECIAL][-1]
    if len(able) == 1:
        return able[0]
    return min(able, key=lambda family: family.cycles(layer, family.default(layer, cpu), cpu))


def fits(layer: Layer[Any], tiling: Tiling, cpu: CpuProfile) -> bool:
    """Return whether the kernel of a tiling computes a layer."""
    return family_of(tiling).fits(layer, tiling, cpu)


def is_tried(layer: Layer[Any], tiling: Tiling, cpu: CpuProfile) -> bool:
    """Return whether a tiling is the default of its family for a layer, or one the tuner tries.

    Other tilings that fit may make code that is never compiled to the end, such as groups of a
    thousand channels.
    """
    family = family_of(tiling)
    if not family.fits(layer, tiling, cpu):
        return False
    return tiling == family.default(layer, cpu) or tiling in family.tilings(layer, cpu)


def sparse_or_dense(layer: Layer[Any], cpu: CpuProfile, other: Layer[Any] | None = None) -> Choice:
    """Return which kernel of a layer the cost models want, and why.

    Parameters
    ----------
    layer : Layer
        The layer.
    cpu : CpuProfile
        The processor.
    other : Layer, optional
        The layer as a dense kernel computes it, if its panels have other lanes.
    """
    dense_layer = other or layer
    sparse, dense = sparse_family(layer, cpu), dense_family(dense_layer, cpu)
    dense_cycles = dense.cycles(dense_layer, dense.default(dense_layer, cpu), cpu)
    reason = sparse.refusal(layer, cpu)
    if reason:
        return Choice(False, reason, math.inf, dense_cycles)
    sparse_cycles = sparse.cycles(layer, sparse.default(layer, cpu), cpu)
    if dense_layer != layer:  # its cycles include the delivery of the weight
        size = layer.density * layer.problem.n * layer.problem.k * slot_bytes(layer.problem.dtype)
        sparse_cycles = max(sparse_cycles, delivery_cycles(size, cpu))
    words = layer.word_density if layer.is_quantized else None
    return choose(layer.density, sparse_cycles, dense_cycles, words)


def default_family(layer: Layer[Any], cpu: CpuProfile) -> Family[Any, Any]:
    """Return the family that the cost models choose for a layer."""
    is_sparse = sparse_or_dense(layer, cpu).sparse
    return sparse_family(layer, cpu) if is_sparse else dense_family(layer, cpu)


def default_kernel(layer: Layer[Any], cpu: CpuProfile) -> Tiling:
    """Return the tiling that the cost models choose for a layer."""
    tiling: Tiling = default_family(layer, cpu).default(layer, cpu)
    return tiling


def kernel_to_fields(tiling: Tiling) -> dict[str, int | str]:
    """Return a kernel as the records hold it: the family's name and the tiling's numbers."""
    family = family_of(tiling)
    return {"kernel": family.name, **family.to_fields(tiling)}


def kernel_from_fields(fields: Mapping[str, int | str]) -> Tiling | None:
    """Return the kernel in a record, or None if no kernel can have these fields."""
    for family in FAMILIES:
        if family.name == fields.get("kernel"):
            tiling: Tiling | None = family.from_fields(
                {name: value for name, value in fields.items() if name != "kernel"}
            )
            return tiling
    return None

"""The kernel families of quantized layers, by the sizes that they take."""

from __future__ import annotations

from typing import Any, TypeAlias

from tvm_sparse.tilings.int8_conv2d import (
    AMX_INT8_CONV2D_FAMILY,
    INT8_CONV2D_FAMILY,
    AmxInt8Conv2dTiling,
    Int8Conv2dTiling,
)
from tvm_sparse.tilings.int8_linear import (
    AMX_INT8_LINEAR_FAMILY,
    INT8_LINEAR_FAMILY,
    AmxInt8LinearTiling,
    Int8LinearTiling,
)
from tvm_sparse.tilings.sparse_int8 import (
    SPARSE_INT8_CONV2D_FAMILY,
    SPARSE_INT8_LINEAR_FAMILY,
    SparseInt8Conv2dTiling,
    SparseInt8LinearTiling,
)

AnyInt8LinearTiling: TypeAlias = Int8LinearTiling | AmxInt8LinearTiling | SparseInt8LinearTiling
AnyInt8Conv2dTiling: TypeAlias = Int8Conv2dTiling | AmxInt8Conv2dTiling | SparseInt8Conv2dTiling

INT8_LINEAR_FAMILIES: tuple[Any, ...] = (
    INT8_LINEAR_FAMILY,
    AMX_INT8_LINEAR_FAMILY,
    SPARSE_INT8_LINEAR_FAMILY,
)
INT8_CONV2D_FAMILIES: tuple[Any, ...] = (
    INT8_CONV2D_FAMILY,
    AMX_INT8_CONV2D_FAMILY,
    SPARSE_INT8_CONV2D_FAMILY,
)


def int8_family(tiling: AnyInt8LinearTiling | AnyInt8Conv2dTiling) -> Any:
    """Return the family of the tiling of a quantized layer."""
    families = *INT8_LINEAR_FAMILIES, *INT8_CONV2D_FAMILIES
    return next(family for family in families if family.tiling is type(tiling))

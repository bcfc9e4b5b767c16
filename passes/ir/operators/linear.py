"""Linear layers on panels: ``activation(W x + bias + residual)`` with a sparse or a dense W."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators.epilogue import epilogue_of, tiling_attributes, tiling_for
from tvm_sparse.passes.ir.operators.layouts import panels_of
from tvm_sparse.passes.ir.operators.operator import (
    EPILOGUE_OPERANDS,
    PREFIX,
    Operator,
    dtype_of,
    tensor_type,
)
from tvm_sparse.passes.ir.shapes import known_extents, known_shape
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.tilings.linear import LINEAR_FAMILY
from tvm_sparse.tilings.sparse_linear import SPARSE_LINEAR_FAMILY

SPARSE_OPERANDS = ("x", "indptr", "channels", "offsets", "values")
"""The panels, and the arrays of a `PackedSparse`."""
OF_NONZEROS = ("offsets", "values")
"""Those of the arrays that have an element for each non-zero; cost models alone ask how many."""


def sparse_linear(
    x: relax.Expr, weights: Sequence[relax.Expr], channels: int, tiling: Mapping[str, Any]
) -> relax.Call:
    """Multiply panels by a packed sparse weight.

    Parameters
    ----------
    x : relax.Expr
        Panels, ``[rows, in_channels, lanes]``.
    weights : sequence of relax.Expr
        The arrays of a `PackedSparse`: indptr, channels, offsets, values.
    channels : int
        Output channels.
    tiling : mapping
        The fields of the `SparseTiling` that the weight was packed with.
    """
    return SPARSE_LINEAR.call(x, *weights, channels=channels, tiling=dict(tiling))


def linear(
    x: relax.Expr, weight: relax.Expr, channels: int, tiling: Mapping[str, Any] | None = None
) -> relax.Call:
    """Multiply panels by a packed dense weight.

    Parameters
    ----------
    x : relax.Expr
        Panels, ``[rows, in_channels, lanes]``.
    weight : relax.Expr
        The result of `tvm_sparse.formats.dense.pack_linear`.
    channels : int
        Output channels.
    tiling : mapping, optional
        The fields of a `LinearTiling`; the cost model chooses one if there are none.
    """
    return LINEAR.call(x, weight, channels=channels, **tiling_attributes(tiling or {}))


def sparse_density(values: relax.Expr, taps: int) -> float:
    """Return the share of `taps` weights for which a packed weight stores one of its `values`."""
    (slots,) = known_shape(values)
    return slots / taps


def infer_linear(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    """Return the type of a linear layer's result."""
    x, *_ = call.args
    rows, _, lanes = known_extents(x)
    return tensor_type(rows, int(call.attrs["channels"]), lanes, dtype=dtype_of(x))


def _sparse_linear(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    operands = SPARSE_LINEAR.operands_of(call)
    x, n = panels_of(operands["x"], images), int(call.attrs["channels"])
    tiling = tiling_for(call, SPARSE_LINEAR_FAMILY)
    density = sparse_density(operands["values"], n * x.channels)
    return schedules.SparseLinear(x, n, tiling, epilogue_of(call), cpu, density)


def _linear(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    x, n = panels_of(LINEAR.operand(call, "x"), images), int(call.attrs["channels"])
    epilogue, tiling = epilogue_of(call), tiling_for(call, LINEAR_FAMILY)
    return schedules.DenseLinear(x, n, epilogue, cpu, tiling)


SPARSE_LINEAR = Operator(
    PREFIX + "sparse_linear",
    SPARSE_OPERANDS,
    EPILOGUE_OPERANDS,
    infer=infer_linear,
    stage=_sparse_linear,
    takes_sizes=True,
    with_epilogue=True,
    any_length=OF_NONZEROS,
)
LINEAR = Operator(
    PREFIX + "linear",
    ("x", "weight"),
    EPILOGUE_OPERANDS,
    infer=infer_linear,
    stage=_linear,
    takes_sizes=True,
    with_epilogue=True,
)

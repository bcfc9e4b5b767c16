"""Linear layers on a few rows: panels of one lane, whose kernels put channels in the lanes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators.epilogue import epilogue_of, tiling_attributes, tiling_for
from tvm_sparse.passes.ir.operators.operator import (
    EPILOGUE_OPERANDS,
    PREFIX,
    Operator,
    dtype_of,
    tensor_type,
)
from tvm_sparse.passes.ir.shapes import known_shape
from tvm_sparse.schedules.emit.windows import WINDOW_ARRAYS
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.row_linear import ROW_LINEAR_FAMILY, SPARSE_ROW_LINEAR_FAMILY


def row_linear(
    x: relax.Expr, weight: relax.Expr, channels: int, tiling: Mapping[str, Any]
) -> relax.Call:
    """Multiply rows by a packed dense weight.

    Parameters
    ----------
    x : relax.Expr
        Panels of one lane, ``[rows, in_channels, 1]``.
    weight : relax.Expr
        The result of `tvm_sparse.formats.rows.pack_rows`.
    channels : int
        Output channels.
    tiling : mapping
        The fields of the `RowTiling` that the weight was packed with.
    """
    return ROW_LINEAR.call(x, weight, channels=channels, **tiling_attributes(tiling))


def sparse_row_linear(
    x: relax.Expr, weights: Sequence[relax.Expr], channels: int, tiling: Mapping[str, Any]
) -> relax.Call:
    """Multiply rows by a packed sparse weight.

    Parameters
    ----------
    x : relax.Expr
        Panels of one lane, ``[rows, in_channels, 1]``.
    weights : sequence of relax.Expr
        The arrays of a `WindowSparse`, in the order of `WINDOW_ARRAYS`.
    channels : int
        Output channels.
    tiling : mapping
        The fields of the `SparseRowTiling` that the weight was packed with.
    """
    return SPARSE_ROW_LINEAR.call(x, *weights, channels=channels, **tiling_attributes(tiling))


def _infer(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    rows, _, lanes = known_shape(call.args[0])
    return tensor_type(rows, int(call.attrs["channels"]), lanes)


def _problem(call: relax.Call) -> Linear:
    rows, k, lanes = known_shape(call.args[0])
    return Linear(rows, lanes, int(call.attrs["channels"]), k)


def _row_linear(call: relax.Call, _cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    tiling, stored = (
        tiling_for(call, ROW_LINEAR_FAMILY),
        dtype_of(ROW_LINEAR.operand(call, "weight")),
    )
    problem = dataclasses.replace(_problem(call), stored=stored)
    return schedules.row_linear(problem, tiling, epilogue_of(call))


def _sparse_row_linear(call: relax.Call, _cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    tiling = tiling_for(call, SPARSE_ROW_LINEAR_FAMILY)
    return schedules.sparse_row_linear(_problem(call), tiling, epilogue_of(call))


ROW_LINEAR = Operator(
    PREFIX + "row_linear",
    ("x", "weight"),
    EPILOGUE_OPERANDS,
    infer=_infer,
    kernel=_row_linear,
    with_epilogue=True,
)
SPARSE_ROW_LINEAR = Operator(
    PREFIX + "sparse_row_linear",
    ("x", *WINDOW_ARRAYS),
    EPILOGUE_OPERANDS,
    infer=_infer,
    kernel=_sparse_row_linear,
    with_epilogue=True,
)

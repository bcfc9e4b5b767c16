"""Quantized linear layers on a few rows, which are panels of one lane that consist of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators.epilogue import epilogue_of, tiling_for
from tvm_sparse.passes.ir.operators.operator import (
    EPILOGUE_OPERANDS,
    PREFIX,
    Operator,
    tensor_type,
)
from tvm_sparse.passes.ir.shapes import known_shape
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.int8_rows import INT8_ROW_FAMILY


def int8_row_linear(
    x: relax.Expr,
    weights: Sequence[relax.Expr],
    problem: Linear,
    tiling: Mapping[str, Any],
) -> relax.Call:
    """Multiply rows of words by a packed weight of integers.

    Parameters
    ----------
    x : relax.Expr
        Panels of one lane, ``[rows, words, 1]``, as from `quantize_words`.
    weights : sequence of relax.Expr
        The packed weight, the scales of the output channels, the corrections and the steps; see
        `pack_int8_rows`.
    problem : Linear
        The sizes.
    tiling : mapping
        The fields of the `Int8RowTiling` that the weight was packed with.
    """
    sizes = {"channels": problem.n, "inputs": problem.k}
    return INT8_ROW_LINEAR.call(x, *weights, **sizes, tiling=dict(tiling))


def _infer(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    rows, _, lanes = known_shape(call.args[0])
    return tensor_type(rows, int(call.attrs["channels"]), lanes)


def _kernel(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    rows, _, lanes = known_shape(call.args[0])
    problem = Linear(rows, lanes, int(call.attrs["channels"]), int(call.attrs["inputs"]))
    tiling = tiling_for(call, INT8_ROW_FAMILY)
    return schedules.int8_row_linear(problem, tiling, epilogue_of(call), cpu)


INT8_ROW_LINEAR = Operator(
    PREFIX + INT8_ROW_FAMILY.name,
    ("x", "weight", "scales", "corrections", "run_time_steps"),
    EPILOGUE_OPERANDS,
    infer=_infer,
    kernel=_kernel,
    with_epilogue=True,
)

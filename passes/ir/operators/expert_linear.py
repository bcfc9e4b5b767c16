"""Linear layers of experts: each row is multiplied by the weight of the expert it is sent to.

A call of `expert_linear` has the weight ``[experts, N, K]`` until `PackExpertWeights` packs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator
from tvm_sparse.schedules.emit.windows import WINDOW_ARRAYS
from tvm_sparse.sizes.expert_linear import ExpertLinear
from tvm_sparse.tilings.row_linear import RowTiling


def expert_linear(
    x: relax.Expr,
    experts_of: relax.Expr,
    weights: Sequence[relax.Expr],
    problem: ExpertLinear,
    tiling: RowTiling | None = None,
) -> relax.Call:
    """Multiply each row by the weight of its expert.

    Parameters
    ----------
    x : relax.Expr
        float32, ``[rows, K]``.
    experts_of : relax.Expr
        int64, ``[rows]``: the expert of each row. Numbers out of range are clipped.
    weights : sequence of relax.Expr
        The weight ``[experts, N, K]``; or with a tiling, that of `pack_rows` of all experts, or the
        arrays of a `WindowSparse`.
    problem : ExpertLinear
        The sizes.
    tiling : RowTiling, optional
        The tiling that the weight was packed with.

    Returns
    -------
    relax.Call
        float32, ``[rows, N]``.
    """
    attrs = dataclasses.asdict(problem)
    if tiling is not None:
        attrs["tiling"] = dataclasses.asdict(tiling)
    record = EXPERT_LINEAR if len(weights) == 1 else SPARSE_EXPERT_LINEAR
    return record.call(x, experts_of, *weights, **attrs)


def expert_linear_of(call: relax.Call) -> ExpertLinear:
    """Return the sizes of a call."""
    fields = dataclasses.fields(ExpertLinear)
    return ExpertLinear(**{field.name: int(call.attrs[field.name]) for field in fields})


def _infer(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    problem = expert_linear_of(call)
    return relax.TensorType((problem.rows, problem.n), ACTIVATIONS)


def _tiling(call: relax.Call) -> RowTiling:
    fields = {name: int(value) for name, value in call.attrs["tiling"].items()}
    return RowTiling(**fields)


def _dense(call: relax.Call, _cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.expert_linear(expert_linear_of(call), _tiling(call))


def _sparse(call: relax.Call, _cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.sparse_expert_linear(expert_linear_of(call), _tiling(call))


EXPERT_LINEAR = Operator(
    PREFIX + "expert_linear", ("x", "experts_of", "weight"), infer=_infer, kernel=_dense
)
SPARSE_EXPERT_LINEAR = Operator(
    PREFIX + "sparse_expert_linear",
    ("x", "experts_of", *WINDOW_ARRAYS),
    infer=_infer,
    kernel=_sparse,
)

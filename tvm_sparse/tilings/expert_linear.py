"""Linear layers of experts: tilings and cycles are those of a few rows, for each active expert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.sizes.expert_linear import ExpertLinear
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.row_linear import (
    ROW_LINEAR_FAMILY,
    SPARSE_ROW_LINEAR_FAMILY,
    RowTiling,
    SparseRowTiling,
)

MOST_ROWS = 4
"""Rows of one expert that are computed together, so that registers are left for vectors."""


def expert_tiling(problem: ExpertLinear, cpu: CpuProfile) -> RowTiling:
    """Return the tiling of dense weights."""
    return _for_all(problem, ROW_LINEAR_FAMILY, 1.0, cpu)


def sparse_expert_tiling(problem: ExpertLinear, density: float, cpu: CpuProfile) -> SparseRowTiling:
    """Return the tiling of sparse weights, which have no `refusal`."""
    return _for_all(problem, SPARSE_ROW_LINEAR_FAMILY, density, cpu)


def refusal(problem: ExpertLinear, cpu: CpuProfile) -> str:
    """Return why no sparse kernel computes a layer; an empty string if one does."""
    return SPARSE_ROW_LINEAR_FAMILY.refusal_of_sizes(problem.of_one_expert, cpu)


def dense_cycles(problem: ExpertLinear, cpu: CpuProfile) -> float:
    """Return the expected cycles of a layer with dense weights, summed over the cores."""
    return _cycles(problem, ROW_LINEAR_FAMILY, expert_tiling(problem, cpu), 1.0, cpu)


def sparse_cycles(problem: ExpertLinear, density: float, cpu: CpuProfile) -> float:
    """Return the expected cycles of a layer with sparse weights, summed over the cores."""
    tiling = sparse_expert_tiling(problem, density, cpu)
    return _cycles(problem, SPARSE_ROW_LINEAR_FAMILY, tiling, density, cpu)


def _for_all(
    problem: ExpertLinear, family: Family[Linear, Any], density: float, cpu: CpuProfile
) -> Any:
    """Return the tiling of one expert's rows; the work of all experts pays for the jobs."""
    linear = problem.of_one_expert
    few = replace(linear, rows=min(linear.rows, MOST_ROWS))
    default: Callable[..., Any] = family.default
    tiling = default(Layer(few, density), cpu)
    jobs = default(Layer(replace(few, rows=problem.rows), density), cpu).jobs
    return replace(tiling, jobs=max(tiling.jobs, jobs))


def _cycles(
    problem: ExpertLinear,
    family: Family[Linear, Any],
    tiling: RowTiling,
    density: float,
    cpu: CpuProfile,
) -> float:
    return problem.active * family.cycles(Layer(problem.of_one_expert, density), tiling, cpu)

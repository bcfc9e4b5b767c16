"""Exact counts of the rows that columns compute, against which estimates and loops are checked."""

from __future__ import annotations

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.rows import column_rows, runs
from tvm_sparse.columns.shapes import RegionShape


def rows_computed(region: RegionShape, plan: ColumnPlan) -> list[int]:
    """Return how many rows each stage computes in one image; without overlap, its height."""
    total = [0] * len(region.stages)
    for column in range(plan.columns(region)):
        for step in runs(region, plan, column_rows(region, plan, column)):
            for i, (first, end) in enumerate(step):
                total[i] += end - first
    return total


def halo_share(region: RegionShape, plan: ColumnPlan) -> float:
    """Return the compute cycles of rows that are computed again, as a share of all other cycles."""
    once = sum(stage.cycles for stage in region.stages)
    computed = rows_computed(region, plan)
    spent = sum(
        stage.cycles * rows / stage.tensor.rows
        for stage, rows in zip(region.stages, computed, strict=True)
    )
    return spent / once - 1 if once else 0.0

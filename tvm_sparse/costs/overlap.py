"""How many rows a region computes, reads and keeps, before its runs are counted one by one.

The cost models ask for these figures for hundreds of plans, so that they count a few typical steps
in place of all, and count all plans at once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.rows import ALIKE, ARRAYS, rows_needed
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.sizes.tensor import RowMap, Tensor

Rows: TypeAlias = NDArray[np.int64]
"""Numbers of rows, or of bytes."""


@dataclass(frozen=True)
class Columns:
    """Columns of a region, of one or several plans, as arrays ``[columns]``.

    Attributes
    ----------
    start, end : ndarray
        The rows ``[start, end)`` of the last stage.
    step_rows : ndarray
        Rows of the last stage in a step.
    is_carried : ndarray
        Whether rows that two steps need are kept.
    """

    start: Rows
    end: Rows
    step_rows: Rows
    is_carried: NDArray[np.bool_]

    @functools.cached_property
    def steps(self) -> Rows:
        """Steps of each column."""
        return -(-(self.end - self.start) // self.step_rows)


def expected_scratch_bytes(region: RegionShape, plans: Sequence[ColumnPlan]) -> Rows:
    """Return about the bytes of intermediate results that a core keeps: those of a middle step.

    `tvm_sparse.columns.memory.scratch_bytes` gives the exact figure, from all runs of the plan.

    Returns
    -------
    ndarray
        The bytes for each plan.
    """
    return scratch_of_stages(region, plans).sum(axis=0)


def scratch_of_stages(region: RegionShape, plans: Sequence[ColumnPlan]) -> Rows:
    """Return `expected_scratch_bytes` stage by stage, ``[stages, plans]``.

    They follow from the stages behind each stage, and not from those in front of it.
    """
    step = np.array([plan.step_rows for plan in plans])
    first = [
        plan.columns(region) // 2 * plan.column_rows + plan.steps() // 2 * plan.step_rows
        for plan in plans
    ]
    start = np.array(first)
    end = np.minimum(start + step, region.height)
    needed = rows_needed(region, np.minimum(start, end - 1), end, ARRAYS)
    oldest = [low for low, _ in needed]
    keeps = np.array([plan.is_carried and plan.steps() > 1 for plan in plans])
    if keeps.any():
        done = [high for _, high in rows_needed(region, start - step, start, ARRAYS)]
        for i, readers in enumerate(region.consumers):
            kept = (seen.first(done[reader]) for reader, seen in readers)
            oldest[i] = np.where(keeps, functools.reduce(np.minimum, kept, done[i]), oldest[i])
    total = np.zeros((len(region.stages), len(plans)), np.int64)
    for i, (stage, low, (_, high)) in enumerate(zip(region.stages, oldest, needed, strict=True)):
        if i not in region.outputs:
            rows = high - np.maximum(low, 0) + stage.tiles.rows - 1
            total[i] = np.minimum(rows, stage.tensor.rows) * stage.tensor.row_bytes
    return total


def column_rows_computed(region: RegionShape, columns: Columns) -> list[NDArray[np.float64]]:
    """Return how many rows each stage computes in each of some columns.

    Where rows are computed again, the first and the last step of a column may be at the image's
    border. Steps between them are alike, but behind strides their rows differ by one, so that a few
    of them are averaged.
    """
    middle = np.maximum(columns.steps - 2, 0)
    sampled = np.minimum(middle - middle // 2, ALIKE)
    share = middle / np.maximum(sampled, 1)
    samples = [(0 * middle, 0 * share + 1), (columns.steps - 1, columns.steps > 1)]
    samples += [(1 + middle // 2 + i, np.where(i < sampled, share, 0)) for i in range(ALIKE)]
    # A carried column computes each row once, as if it were one step.
    step = np.where(columns.is_carried, columns.end - columns.start, columns.step_rows)
    first = np.stack(
        [columns.start + np.minimum(at, columns.steps - 1) * step for at, _ in samples]
    )
    weights = np.stack([weight + 0 * share for _, weight in samples])
    first[1:, columns.is_carried], weights[1:, columns.is_carried] = (
        columns.start[columns.is_carried],
        0,
    )
    needed = rows_needed(region, first, np.minimum(first + step, columns.end), ARRAYS)
    return [functools.reduce(np.add, weights * (high - low)) for low, high in needed]


def rows_read(
    seen: RowMap | None, rows: NDArray[np.float64], source: Tensor
) -> tuple[float | NDArray[np.float64], float]:
    """Return how many rows of an operand a step reads for `rows` rows of the result.

    Parameters
    ----------
    seen : RowMap, optional
        The rows of the operand that an output row sees; None: all of them.
    rows : ndarray
        Rows of the result.
    source : Tensor
        The operand.

    Returns
    -------
    (ndarray, float)
        Rows that no step before has read, and rows that the step before read as well.
    """
    if seen is None:
        return source.rows, 0.0
    window, advance = seen.before + seen.after, seen.stride / seen.factor
    if window <= advance:
        return rows * window, 0.0
    return rows * advance, window - advance

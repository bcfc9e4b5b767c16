"""Which rows every stage of a region computes, column by column and step by step.

A region is a chain (or a graph without cycles) of stages, each of which computes rows from rows of
others. Its last stage is cut into columns of rows, a column into steps. In every step each stage
computes what its consumers ask for:

* ``recompute``: all rows that the step needs, also those that the step before had.
* ``carry``: only the rows that are new; those still needed are kept in a rolling buffer. Rows are
  computed twice only where two columns meet. A halo of more than a step takes steps of its own, so
  that no run is much longer, and no buffer much larger, than in the other steps.

A stage computes its rows in tiles, counted from its first row in the column; carried ones in whole
tiles, ahead of what the step needs. So columns may have any number of rows.

The functions work on integers, for the cost model, and on expressions, for the schedule: the loops
that run are the ones that were counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.sizes.tensor import Row

ALIKE = 4
"""Columns, or steps, between the first and the last one that are counted for all of these."""


@dataclass(frozen=True)
class Minimum:
    """Minimum and maximum of rows: Python's for integers, another's for expressions."""

    min: Callable[[Row, Row], Row] = min
    max: Callable[[Row, Row], Row] = max


INTEGERS = Minimum()


def round_up(n: Row, unit: int) -> Row:
    """Return the least multiple of `unit` that is not below `n`."""
    return n if unit == 1 else (n + (unit - 1)) // unit * unit


@functools.cache
def halo_steps(region: RegionShape, plan: ColumnPlan) -> int:
    """Return the steps in front of a column's first rows: the whole ones that its halo fills."""
    if plan.overlap == "recompute" or plan.steps() == 1:
        return 0
    # Of a column with a halo on both sides, if there is one.
    column = min(1, plan.columns(region) - 1)
    bounds = column_bounds(region, plan, column)
    steps, end = 0, column * plan.column_rows - plan.step_rows
    while any(
        high > first
        for (first, _), (_, high) in zip(bounds, rows_needed(region, end - 1, end), strict=True)
    ):
        steps, end = steps + 1, end - plan.step_rows
    return steps


def column_bounds(
    region: RegionShape, plan: ColumnPlan, column: Row, of: Minimum = INTEGERS
) -> list[tuple[Row, Row]]:
    """Return the rows ``[first, end)`` of every stage in a column."""
    start = column * plan.column_rows
    return rows_needed(region, start, of.min(start + plan.column_rows, region.height), of)


def frontier(
    region: RegionShape, plan: ColumnPlan, column: Row, step: Row, of: Minimum = INTEGERS
) -> tuple[Row, Row]:
    """Return the rows ``[first, end)`` of the last stage that a step of a column computes.

    Those of step ``-i``, of the halo, lie in front of the column: up to there the rows are needed.
    """
    start = column * plan.column_rows
    last = of.min(start + plan.column_rows, region.height)
    first = of.min(start + step * plan.step_rows, last)
    return first, of.min(first + plan.step_rows, last)


def own_row(region: RegionShape, stage: int, row: Row, of: Minimum = INTEGERS) -> Row:
    """Return up to where an output of the region is complete when the last stage is up to `row`.

    The rows in between belong to one column only, which stores them.
    """
    shape, height = region.stages[stage], region.height
    scaled = row
    if shape.tensor.rows != height:
        scaled = (row * shape.tensor.rows + (height - 1)) // height
    return of.min(scaled, shape.tensor.rows)


def rows_needed(
    region: RegionShape,
    first: Row,
    end: Row,
    of: Minimum = INTEGERS,
    bounds: Sequence[tuple[Row, Row]] | None = None,
) -> list[tuple[Row, Row]]:
    """Return the rows ``[first, end)`` of every stage behind some rows of the last one.

    Parameters
    ----------
    region : RegionShape
        The stages.
    first, end : Row
        Rows of the last one.
    of : Minimum
        How rows are compared.
    bounds : sequence of (Row, Row), optional
        The rows of every stage in a column: with them, stages compute whole tiles ahead.
    """
    needed: list[tuple[Row, Row]] = [(0, 0)] * len(region.stages)
    for i in reversed(range(len(region.stages))):
        stage = region.stages[i]
        height, tile = stage.tensor.rows, stage.tile
        wanted = [
            (of.max(seen.first(needed[reader][0]), 0), of.min(seen.end(needed[reader][1]), height))
            for reader, seen in region.consumers[i]
        ]
        if i in region.outputs:
            wanted.append((own_row(region, i, first, of), own_row(region, i, end, of)))
        low = functools.reduce(of.min, (low for low, _ in wanted))
        high = functools.reduce(of.max, (high for _, high in wanted))
        if bounds and tile > 1:
            begin, last = bounds[i]
            high = of.min(begin + round_up(high - begin, tile), last)
        needed[i] = low, high
    return needed


def runs(region: RegionShape, plan: ColumnPlan, column: int) -> list[list[tuple[int, int]]]:
    """Return the rows ``[first, end)`` that each stage computes, for every step of a column."""
    result = []
    bounds = column_bounds(region, plan, column)
    done = [first for first, _ in bounds]
    for step in range(-halo_steps(region, plan), plan.steps()):
        first, end = frontier(region, plan, column, step)
        if first == end:
            break
        if plan.overlap == "recompute":
            needed = rows_needed(region, first, end)
        else:
            ahead = rows_needed(region, first, end, bounds=bounds)
            needed = [(d, max(d, high)) for d, (_, high) in zip(done, ahead, strict=True)]
        result.append(needed)
        done = [high for _, high in needed]
    return result


def typical_columns(region: RegionShape, plan: ColumnPlan) -> list[tuple[int, int]]:
    """Return columns that stand for all of an image, and for how many each stands."""
    columns = plan.columns(region)
    if columns <= ALIKE + 2:
        return [(column, 1) for column in range(columns)]
    # Those between the first and the last are alike, but rows before a stride differ by one.
    count, more = divmod(columns - 2, ALIKE)
    middle = [(columns // 2 - ALIKE // 2 + i, count + (i < more)) for i in range(ALIKE)]
    return [(0, 1), *middle, (columns - 1, 1)]


def rows_computed(region: RegionShape, plan: ColumnPlan) -> list[int]:
    """Return the rows that each stage computes in one image; its height, without overlap."""
    total = [0] * len(region.stages)
    for column in range(plan.columns(region)):
        for step in runs(region, plan, column):
            for i, (first, end) in enumerate(step):
                total[i] += end - first
    return total


def halo_share(region: RegionShape, plan: ColumnPlan) -> float:
    """Return the compute cycles of rows that are computed again, as a share of all without."""
    once = sum(stage.cycles for stage in region.stages)
    computed = rows_computed(region, plan)
    spent = sum(
        stage.cycles * rows / stage.tensor.rows
        for stage, rows in zip(region.stages, computed, strict=True)
    )
    return spent / once - 1 if once else 0.0

"""The rows that every stage of a region computes, column by column and step by step.

A region is a graph of stages without cycles, often a chain. Each stage computes its rows from rows
of other stages. The last stage's rows are cut into columns, and a column into steps. In every step
each stage computes the rows that its readers ask for:

* ``recompute``: a step computes all rows that it needs, also those that the step before had.
* ``carry``: a step computes only rows that no step before it has computed; rows that are still
  needed are kept in a rolling buffer. Rows are computed twice only where two columns meet. A halo
  of more than a step takes steps of its own, so that no run is much longer, and no buffer much
  larger, than in the other steps.

A stage computes its rows in tiles, counted from its first row in the column, and carried rows in
whole tiles, ahead of the rows that the step needs. So columns may have any number of rows.

The functions work on integers and arrays of them, for the cost models, and on expressions, for the
schedule. So the loops that run are the loops that were counted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.tensor import Row

ALIKE = 4
"""Columns, or steps, that are counted in place of all those between the first and the last one."""


@dataclass(frozen=True)
class RowArithmetic:
    """How rows are computed with: as Python's integers, unless expressions are wanted.

    Attributes
    ----------
    min, max : callable
        Functions of two rows that return a row.
    size : callable
        Returns the number of rows that a size, perhaps an `Extent`, stands for: of an extent, the
        hint or the expression.
    choose : callable
        Returns the second of its arguments where the first one is true, else the third one.
    named : callable
        Returns a row that many others depend on, as an expression of its own.
    columns : int or Expr, optional
        The number of columns of an image, which then have about equally many rows, at most
        those of the plan. By default, all columns but the last one have the rows of the plan.
    """

    min: Callable[[Row, Row], Row] = min
    max: Callable[[Row, Row], Row] = max
    size: Callable[[int], Row] = int
    choose: Callable[[Any, Row, Row], Row] = lambda condition, a, b: a if condition else b
    named: Callable[[Row], Row] = lambda row: row
    columns: Row | None = None


INTEGERS = RowArithmetic()

ARRAYS = RowArithmetic(np.minimum, np.maximum, choose=np.where)
"""Row numbers as arrays: those of many columns, or of many plans."""

Span: TypeAlias = tuple[Row, Row]
"""The rows ``[first, end)`` of the last stage in a column."""


@functools.cache
def halo_steps(region: RegionShape, plan: ColumnPlan) -> int:
    """Return the number of steps in front of a column's first row that its halo fills."""
    if plan.overlap == "recompute" or plan.steps() == 1:
        return 0
    # The second column has a halo on both sides, if there are three.
    column = min(1, plan.columns(region) - 1)
    bounds = column_bounds(region, column_rows(region, plan, column))
    steps, end = 0, column * plan.column_rows - plan.step_rows
    while any(
        high > first
        for (first, _), (_, high) in zip(bounds, rows_needed(region, end - 1, end), strict=True)
    ):
        steps, end = steps + 1, end - plan.step_rows
    return steps


def column_rows(
    region: RegionShape, plan: ColumnPlan, column: Row, rows: RowArithmetic = INTEGERS
) -> Span:
    """Return the rows ``[first, end)`` of the last stage in a column."""
    height = rows.size(region.height)
    if rows.columns is not None:
        return column * height // rows.columns, (column + 1) * height // rows.columns
    start = column * plan.column_rows
    return start, rows.min(start + plan.column_rows, height)


def column_bounds(
    region: RegionShape, span: Span, rows: RowArithmetic = INTEGERS
) -> list[tuple[Row, Row]]:
    """Return the rows ``[first, end)`` of every stage in a column."""
    return rows_needed(region, *span, rows)


def frontier(
    plan: ColumnPlan, span: Span, step: Row, rows: RowArithmetic = INTEGERS
) -> tuple[Row, Row]:
    """Return the rows ``[first, end)`` of the last stage that a step of a column computes.

    The rows of a halo's step ``-i`` lie in front of the column; a step of the halo computes what
    is needed up to them.
    """
    start, last = span
    first = rows.min(start + step * plan.step_rows, last)
    return first, rows.min(first + plan.step_rows, last)


def first_unowned_row(
    region: RegionShape, stage: int, last_stage_row: Row, rows: RowArithmetic = INTEGERS
) -> Row:
    """Return the row of `stage` at which ownership passes to the next column.

    A column that ends before `last_stage_row` stores the rows below it, and no other column does.

    Parameters
    ----------
    region : RegionShape
        The stages.
    stage : int
        Number of a stage whose result is an output of the region.
    last_stage_row : Row
        A row of the last stage.
    rows : RowArithmetic
        How rows are compared.
    """
    own, height = region.stages[stage].tensor.rows, region.height
    scaled = last_stage_row
    if own != height:
        own_rows, last_rows = _ratio(own, height)
        scaled = last_stage_row * own_rows
        if last_rows > 1:
            scaled = (scaled + (last_rows - 1)) // last_rows
    return rows.min(scaled, rows.size(own))


def _ratio(own: int, height: int) -> tuple[int, int]:
    """Return the least numbers in the ratio of the rows of two stages, which grow alike."""
    if isinstance(own, Extent) and isinstance(height, Extent):
        ((term, slope),) = ((term, count) for term, count in own.terms.items() if term)
        own, height = slope, height.terms[term]
    divisor = math.gcd(own, height)
    return own // divisor, height // divisor


def rows_needed(
    region: RegionShape,
    first: Row,
    end: Row,
    rows: RowArithmetic = INTEGERS,
    bounds: Sequence[tuple[Row, Row]] | None = None,
) -> list[tuple[Row, Row]]:
    """Return the rows ``[first, end)`` of every stage that some rows of the last one need.

    Parameters
    ----------
    region : RegionShape
        The stages.
    first, end : Row
        The first row of the last stage, and the row behind its last one.
    rows : RowArithmetic
        How rows are compared.
    bounds : sequence of (Row, Row), optional
        The rows ``[first, end)`` of every stage in the column. With them, stages compute whole
        tiles, ahead of the rows that are needed.
    """
    needed: list[tuple[Row, Row]] = [(0, 0)] * len(region.stages)
    for i in reversed(range(len(region.stages))):
        stage = region.stages[i]
        height = rows.size(stage.tensor.rows)
        wanted = [
            (
                rows.max(seen.first(needed[reader][0]), 0),
                rows.min(seen.end(needed[reader][1]), height),
            )
            for reader, seen in region.consumers[i]
        ]
        if i in region.outputs:
            wanted.append(
                (first_unowned_row(region, i, first, rows), first_unowned_row(region, i, end, rows))
            )
        low = functools.reduce(rows.min, (low for low, _ in wanted))
        high = functools.reduce(rows.max, (high for _, high in wanted))
        if bounds and stage.tiles.rows > 1:
            begin, last = bounds[i]
            high = rows.min(begin + stage.tiles.up(high - begin), last)
        needed[i] = rows.named(low), rows.named(high)
    return needed


def runs(
    region: RegionShape, plan: ColumnPlan, span: Span, rows: RowArithmetic = INTEGERS
) -> list[list[tuple[Row, Row]]]:
    """Return the rows ``[first, end)`` that each stage computes, for every step of a column."""
    result = []
    bounds = column_bounds(region, span, rows)
    done = [first for first, _ in bounds]
    for step in range(-halo_steps(region, plan), plan.steps()):
        first, end = frontier(plan, span, step, rows)
        is_over = first == end
        if np.all(is_over):
            break
        if plan.overlap == "recompute":
            needed = rows_needed(region, first, end, rows)
        else:
            ahead = rows_needed(region, first, end, rows, bounds)
            needed = [(d, rows.max(d, high)) for d, (_, high) in zip(done, ahead, strict=True)]
        needed = [
            (rows.choose(is_over, d, low), rows.choose(is_over, d, high))
            for d, (low, high) in zip(done, needed, strict=True)
        ]
        result.append(needed)
        done = [high for _, high in needed]
    return result


def typical_columns(region: RegionShape, plan: ColumnPlan) -> list[tuple[int, int]]:
    """Return the columns that stand for all of an image, each with the number it stands for."""
    columns = plan.columns(region)
    if columns <= ALIKE + 2:
        return [(column, 1) for column in range(columns)]
    # Columns between the first and the last are alike, but rows before a stride differ by one.
    count, more = divmod(columns - 2, ALIKE)
    middle = [(columns // 2 - ALIKE // 2 + i, count + (i < more)) for i in range(ALIKE)]
    return [(0, 1), *middle, (columns - 1, 1)]

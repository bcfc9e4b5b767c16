"""Columns that stand for those of images of every height.

The rows of all stages of a region grow alike: with each unit of the height, such as 32 rows of the
network's input, by a fixed number of rows. So a column that sees neither the first nor the last row
of any stage is like every other one that begins as many rows behind a whole unit. A few units of
heights have a column of each kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.rows import ARRAYS, RowArithmetic, Span, column_rows, rows_needed
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.tensor import Row

UNITS = 1 << 20
"""Units of an image that is higher than all columns and what they see."""


class Growth(NamedTuple):
    """How many rows a stage has: `slope` for each unit of the height, and `offset` more."""

    slope: int
    offset: int

    def rows(self, units: Row) -> Row:
        """Return the rows of the stage in an image of some units; these may be an array."""
        return self.slope * units + self.offset


def growth_of(region: RegionShape) -> dict[int, Growth] | None:
    """Return how the rows of the stages grow, by the `Extent` that they are.

    Returns
    -------
    dict of int to Growth or None
        None if columns of some heights may not be like those of others: the rows of a stage do not
        grow with the same size, or not as the rows that its readers see.
    """
    extents = {stage.tensor.rows for stage in region.stages}
    if not all(isinstance(extent, Extent) for extent in extents):
        return None
    known = {extents.pop(): Growth(1, 0)} if len(extents) == 1 else _grown(extents)
    if known is None:
        return None
    grown = [known[stage.tensor.rows] for stage in region.stages]
    for own, stage in zip(grown, region.stages, strict=True):
        for edge in stage.edges:
            if edge.source >= 0 and edge.rows is not None:
                source = grown[edge.source]
                if source.slope * edge.rows.factor != own.slope * edge.rows.stride:
                    return None
    last = grown[-1]
    for i in region.outputs:
        if grown[i].offset * last.slope != last.offset * grown[i].slope:
            return None
    return known


def _grown(extents: set[int]) -> dict[int, Growth] | None:
    """Return several extents in terms of the one size that all of them are linear in."""
    known, units = {}, set()
    for extent in extents:
        terms = dict(extent.terms) if isinstance(extent, Extent) else {}
        offset = terms.pop((), 0)
        if len(terms) != 1:
            return None
        ((unit, slope),) = terms.items()
        units.add(unit)
        known[extent] = Growth(slope, offset)
    return known if len(units) == 1 and all(own.slope > 0 for own in known.values()) else None


def all_columns(region: RegionShape, plan: ColumnPlan) -> tuple[Span, RowArithmetic]:
    """Return the columns of an image as arrays; those of every kind if any height is possible.

    Returns
    -------
    (Span, RowArithmetic)
        The rows of the last stage in each column, and the arithmetic that knows the sizes of the
        image that each is a part of.

    Raises
    ------
    ValueError
        If there may be columns of other kinds.
    """
    if not isinstance(region.height, Extent):
        columns = np.arange(plan.columns(region))
        return column_rows(region, plan, columns, ARRAYS), ARRAYS
    grown = growth_of(region)
    if grown is None:
        raise ValueError("the rows of these stages must be known when the region is compiled")
    last = grown[region.height]
    above, below = _margins(region, grown)
    start, length, more = np.meshgrid(
        np.arange(last.slope * (above + 1)),
        np.arange(1, plan.column_rows + 1),
        np.arange(below + 1),
        indexing="ij",
    )
    end = start + length
    units = -((last.offset - end) // last.slope) + more  # the image does not end before the column
    is_image = units >= 1
    start, end, units = start[is_image], end[is_image], units[is_image]
    return (start, end), _of_units(grown, units)


def _of_units(grown: Mapping[int, Growth], units: Row) -> RowArithmetic:
    """Return the arithmetic of rows of images of some units; these may be an array."""
    return replace(
        ARRAYS,
        size=lambda size: grown[size].rows(units) if isinstance(size, Extent) else int(size),
    )


def _margins(region: RegionShape, grown: Mapping[int, Growth]) -> tuple[int, int]:
    """Return the units from the upper and the lower border at which columns do not see it."""
    rows, slope = _of_units(grown, 2 * UNITS), grown[region.height].slope
    first = UNITS * slope + np.arange(slope)
    above, below = 0, 0
    for stage, (low, high) in zip(
        region.stages, rows_needed(region, first, first + 1, rows), strict=True
    ):
        own = grown[stage.tensor.rows]
        above = max(above, UNITS - int((low // own.slope).min()))
        below = max(below, int((-((own.offset - high) // own.slope)).max()) - UNITS)
    return above, below

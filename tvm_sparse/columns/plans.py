"""How a region is cut into columns and steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tvm_sparse.columns.shapes import RegionShape

Overlap = Literal["recompute", "carry"]


@dataclass(frozen=True)
class ColumnPlan:
    """How the rows of a region are cut into columns and steps.

    Attributes
    ----------
    column_rows : int
        Rows of the last stage in a column; the last column of an image may have fewer.
    step_rows : int
        Rows of the last stage in a step.
    overlap : str
        Whether rows that the next step needs again are computed again (``"recompute"``) or kept
        (``"carry"``).
    """

    column_rows: int
    step_rows: int
    overlap: Overlap = "carry"

    @property
    def is_carried(self) -> bool:
        """Whether rows that the next step needs again are kept."""
        return self.overlap == "carry"

    def columns(self, region: RegionShape) -> int:
        """Return the number of columns of one image."""
        return -(-int(region.height) // self.column_rows)

    def steps(self) -> int:
        """Return the number of steps of a whole column."""
        return -(-self.column_rows // self.step_rows)

    def fitted(self, region: RegionShape) -> ColumnPlan:
        """Return the plan with columns of at most an image, and steps of at most a column."""
        column = min(self.column_rows, int(region.height))
        return ColumnPlan(column, min(self.step_rows, column), self.overlap)


@dataclass(frozen=True)
class Stops:
    """Cache stops inside a possible region, in place of a plan for the whole region.

    Attributes
    ----------
    before : tuple of int
        Numbers of the stages before which all rows are written out.
    """

    before: tuple[int, ...]

    @staticmethod
    def everywhere(stages: int) -> Stops:
        """Return the stops by which the operators of a region of `stages` stages run one by one."""
        return Stops(tuple(range(1, stages)))

    def parts(self, stages: int) -> list[tuple[int, int]]:
        """Return the stages ``[first, end)`` of every part of a region of `stages` stages."""
        return list(itertools.pairwise((0, *self.before, stages)))


@dataclass(frozen=True)
class Measured:
    """The plan that measurements found to be the best for a region.

    Attributes
    ----------
    plan : ColumnPlan or Stops
        The plan, or the stops of a region that is better in parts.
    share : float
        The time under the plan, as a share of the time of the operators one by one.
    """

    plan: ColumnPlan | Stops
    share: float


PlanFor: TypeAlias = Callable[[RegionShape], Measured | None]
"""Returns the best measured plan of a region, or None if none was measured."""

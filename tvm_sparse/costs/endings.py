"""The best plans of all regions that end with the same stage, priced together.

A planner asks for the regions ``[first, end)`` of a run of operators, for many `first` of each
`end`. All of them have the same columns, and the rows that a stage computes follow from the stages
behind it alone. They differ in the bytes that a step touches, and in the operands that come from
outside. So one pass over the stages prices all of them, with arrays ``[starts, columns]``. The
formulas are those of `tvm_sparse.costs.column`, without the counts of bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.columns.plans import ColumnPlan, Overlap
from tvm_sparse.columns.rows import typical_columns
from tvm_sparse.columns.shapes import Edge, RegionShape
from tvm_sparse.costs.best_plan import overlaps_of, possible_plans
from tvm_sparse.costs.column import (
    EXPOSED_SHARE,
    READ_TENSORS,
    WRITE_TENSORS,
    compute_seconds,
    outside,
    rows_and_costs,
)
from tvm_sparse.costs.overlap import Columns, rows_read, scratch_of_stages
from tvm_sparse.costs.regions import first_of_least
from tvm_sparse.costs.traffic import Caches, Distance, caches
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import LAUNCH_SECONDS
from tvm_sparse.sizes.tensor import Tensor

Floats: TypeAlias = NDArray[np.float64]


class _Access(NamedTuple):
    """Of some starts, the bytes of rows that a step reads, and their distance, as `Distance`."""

    starts: slice
    bytes: float | Floats
    own: Floats
    all: Floats


class Ending(NamedTuple):
    """The best plan of the last stages of a region, and its expected seconds."""

    plan: ColumnPlan
    seconds: float


def best_endings(
    region: RegionShape, cpu: CpuProfile, overlap: Overlap | Literal["auto"] = "auto"
) -> list[Ending]:
    """Return for every stage what `best_plan` finds for the region from it to the last stage.

    Parameters
    ----------
    region : RegionShape
        The longest of the regions.
    cpu : CpuProfile
        The processor.
    overlap : str
        As in `best_plan`.
    """
    region = region.planned
    plans = possible_plans(region, cpu, overlaps_of(overlap))
    scratch = np.cumsum(scratch_of_stages(region, plans)[::-1], axis=0)[::-1]
    fits = scratch <= cpu.l2_bytes
    fits[~fits.any(axis=1), 0] = True
    tried = np.flatnonzero(fits.any(axis=0))
    plans = [plans[at] for at in tried]
    seconds = _seconds(region, plans, cpu)
    seconds[~fits[:, tried]] = math.inf
    best = first_of_least(seconds)
    return [Ending(plans[at], float(row[at])) for at, row in zip(best, seconds, strict=True)]


def _seconds(region: RegionShape, plans: Sequence[ColumnPlan], cpu: CpuProfile) -> Floats:
    """Return the expected seconds from each stage on, ``[stages, plans]``."""
    counts = np.array([region.images * plan.columns(region) for plan in plans])
    share = -(-counts // cpu.cores)
    typical = [typical_columns(region, plan) for plan in plans]
    of_plan = np.repeat(np.arange(len(plans)), [len(found) for found in typical])
    which, stands_for = np.array([kind for found in typical for kind in found]).T
    column_rows, step_rows, is_carried = (
        np.array([getattr(plan, name) for plan in plans])[of_plan]
        for name in ("column_rows", "step_rows", "is_carried")
    )
    start = which * column_rows
    end = np.minimum(start + column_rows, region.height)
    columns = Columns(start, end, step_rows, is_carried)
    costs = _EndingCosts(region, columns, caches(cpu))
    total = costs.seconds(cpu.memory_system.clock_hz, 1 / share[of_plan])
    bounds = np.minimum(share[:, None] * np.arange(cpu.cores + 1), counts[:, None])
    work = np.zeros((len(region.stages), len(plans), cpu.cores))
    images, left = np.divmod(bounds, (counts // region.images)[:, None])
    first = np.searchsorted(of_plan, np.arange(len(plans)))
    kinds = np.bincount(of_plan)
    for kind in range(kinds.max()):
        has = kind < kinds
        column = first[has] + kind
        count = stands_for[column][:, None]
        taken = np.minimum(left[has], count)
        mine = np.diff(images[has] * count + taken, axis=1)
        work[:, has] += total[:, column, None] * mine
        left[has] -= taken
    return work.max(axis=2) + np.where(counts > 1, LAUNCH_SECONDS, 0.0)


class _EndingCosts:
    """The work of columns of every ending of a region: arrays ``[starts, columns]``.

    The row of a start says what the region from that stage on has; a stage in front of it has
    zeros there.
    """

    def __init__(self, region: RegionShape, columns: Columns, caches: Caches) -> None:
        self._region, self._caches, self._steps = region, caches, columns.steps
        self._rows, self._row_costs = rows_and_costs(region, columns)
        shape = len(region.stages), len(columns.steps)
        self._touched: list[Floats] = []
        self._readers: dict[int, list[int]] = {}
        self._brought: dict[tuple[int, int], Floats] = {}
        self._before: list[Floats] = [np.zeros(shape)]
        for i, stage in enumerate(region.stages):
            own = self._rows[i] * (stage.tensor.row_bytes + stage.window_bytes)
            self._brought[i, i] = own
            touched = np.zeros(shape)
            touched[: i + 1] = stage.weight_bytes + own
            for edge in stage.edges:
                readers = self._readers.setdefault(edge.source, [])
                if i in readers:
                    continue
                new, _ = rows_read(edge.rows, self._rows[i], self._source(edge))
                brought = new * self._source(edge).row_bytes + np.zeros(shape[1])
                self._brought[edge.source, i] = brought
                # With a start behind the maker and all other readers, the stage is the first one.
                touched[max([edge.source, -1, *readers]) + 1 : i + 1] += brought
                readers.append(i)
            self._touched.append(touched)
            self._before.append(self._before[-1] + touched)

    def seconds(self, clock_hz: float, cold: Floats) -> Floats:
        """Return what columns cost from each stage on; see `ColumnCosts.cost` for `cold`."""
        total = np.zeros_like(self._before[-1])
        for i, weights in enumerate(self._weight_seconds(cold / self._steps)):
            stage = self._region.stages[i]
            compute = compute_seconds(stage, self._rows[i], self._row_costs[i], clock_hz)
            exposed = EXPOSED_SHARE * np.minimum(compute, weights)
            total[: i + 1] += np.maximum(compute, weights) + exposed
        self._add_rows(total)
        return self._steps * total

    def _weight_seconds(self, cold: Floats) -> list[Floats]:
        """Return how long each stage reads weights in a step, from every start on.

        A share `cold` of the steps reads them after everything else in the network was touched.
        """
        step_bytes = self._before[-1]
        never = Distance(np.full_like(step_bytes, math.inf), step_bytes)
        once = cold * self._caches.weight_seconds(never)
        once += (1 - cold) * self._caches.weight_seconds(Distance(step_bytes, step_bytes))
        # All tiles of rows but the first one read them again.
        tiles, again = [], []
        for i, stage in enumerate(self._region.stages):
            tiles.append(np.maximum(self._rows[i] / stage.tiles.rows, 1.0))
            others = self._touched[i][: i + 1] - stage.weight_bytes
            again.append(stage.weight_bytes + others / tiles[i])
        rates = self._caches.weight_seconds(Distance(*[np.concatenate(again)] * 2))
        ends = itertools.accumulate(range(1, len(again)))
        return [
            stage.weight_bytes * (once[: i + 1] + (tiles[i] - 1) * rate)
            for i, (stage, rate) in enumerate(
                zip(self._region.stages, np.split(rates, list(ends)), strict=True)
            )
        ]

    def _add_rows(self, total: Floats) -> None:
        """Add how long stages read and write rows in a step."""
        step_bytes, cores = self._before[-1], self._caches.cores
        step = Distance(step_bytes, step_bytes * cores)
        read_step = self._caches.row_seconds(step)
        write_step = self._caches.row_seconds(step, is_write=True)
        accesses: list[_Access] = []
        for i, stage in enumerate(self._region.stages):
            own = slice(0, i + 1)
            for edge in stage.edges:
                source = self._source(edge)
                new, again = rows_read(edge.rows, self._rows[i], source)
                for starts, distance in self._distances(i, edge, source):
                    own_bytes, all_bytes = np.atleast_2d(distance.own, distance.all)
                    read = new * source.row_bytes
                    accesses.append(_Access(starts, read, own_bytes, all_bytes))
                if again:
                    total[own] += again * source.row_bytes * read_step[own]
            size = self._rows[i] * stage.tensor.row_bytes
            if i in self._region.outputs:
                distance = outside(WRITE_TENSORS * stage.tensor.bytes, cores)
                total[own] += size * self._caches.row_seconds(distance, is_write=True)
            else:
                total[own] += size * write_step[own]
        # Distances that are alike for all starts and columns are arrays of one number.
        for alike in (False, True):
            self._add_reads(
                [access for access in accesses if (access.own.size == 1) == alike], total
            )

    def _add_reads(self, accesses: Sequence[_Access], total: Floats) -> None:
        if not accesses:
            return
        own, everything = (
            np.concatenate([getattr(access, name) for access in accesses])
            for name in ("own", "all")
        )
        rates = self._caches.row_seconds(Distance(own, everything))
        end = 0
        for access in accesses:
            first, end = end, end + len(access.own)
            total[access.starts] += access.bytes * rates[first:end]

    def _distances(self, i: int, edge: Edge, source: Tensor) -> Iterator[tuple[slice, Distance]]:
        """Yield how far from stage `i` the rows of an operand are, for all of the starts."""
        first = 0
        made = [edge.source] if edge.source >= 0 else []
        for maker in [*made, *(reader for reader in self._readers[edge.source] if reader <= i)]:
            starts, first = slice(first, maker + 1), maker + 1
            if starts.start == starts.stop:
                continue
            if maker < i:
                rest = self._touched[maker][starts] - self._brought[edge.source, maker]
                rest += self._touched[i][starts]
                between = self._before[i + 1][starts] - self._before[maker][starts] - rest / 2
                yield starts, Distance(between, between * self._caches.cores)
            elif edge.rows is None:
                step = self._before[-1][starts]
                image = source.bytes / source.images
                yield starts, Distance(image + step, source.bytes + step)
            else:
                yield starts, outside(READ_TENSORS * source.bytes, self._caches.cores)

    def _source(self, edge: Edge) -> Tensor:
        """Return the tensor that an operand is."""
        if edge.source >= 0:
            return self._region.stages[edge.source].tensor
        return self._region.inputs[-1 - edge.source]

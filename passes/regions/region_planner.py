"""Chooses the operators of each region and its plan: the cheapest partition of a run.

The cost of a run is the sum of its regions' costs, so the best partition of the first operators of
a run is found from the best partitions of fewer of them (dynamic programming).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tvm_sparse.columns.options import ColumnRows, OverlapOption
from tvm_sparse.columns.plans import ColumnPlan, PlanFor, Stops
from tvm_sparse.columns.shapes import RegionShape, part
from tvm_sparse.costs.best_plan import best_plan
from tvm_sparse.costs.endings import Ending, best_endings
from tvm_sparse.costs.regions import Prediction, predict, predict_alone
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.regions.region_graph import Node, region_of

MOST_STAGES = 16
"""Most stages of a region: with more, no gain was measured, and planning takes long."""
LEAST_GAIN = 0.02
"""The share of time that a region must be expected to gain; less is within the error."""
HOPELESS = 1.3
"""A region that takes this many times as long as its operators one by one is not made longer."""


@dataclass(frozen=True)
class PlannedRegion:
    """A region that was chosen.

    Attributes
    ----------
    nodes : sequence of Node
        Its operators. A single operator stays as it is.
    shape : RegionShape
        The sizes that planning needs.
    plan : ColumnPlan, optional
        None for an operator by itself.
    prediction : Prediction
        The expected cost.
    alone_seconds : float
        The expected seconds of its operators one by one.
    source : str
        Who chose the plan: ``"cost model"``, ``"record"`` or ``"user"``.
    stop : str
        The reason why the region ends here.
    """

    nodes: Sequence[Node] = field(repr=False)
    shape: RegionShape
    plan: ColumnPlan | None
    prediction: Prediction
    alone_seconds: float
    source: str = "cost model"
    stop: str = ""

    @property
    def layers(self) -> list[str]:
        """Names of its operators."""
        return [node.name for node in self.nodes]

    @property
    def operators(self) -> list[str]:
        """The kinds of its operators."""
        return [stage.name for stage in self.shape.stages]

    def report(self) -> dict[str, Any]:
        """Return the plan and the prediction as a JSON object."""
        prediction = self.prediction
        report: dict[str, Any] = {
            "layers": self.layers,
            "operators": self.operators,
            "halo_share": prediction.halo_share,
            "scratch_bytes": prediction.scratch_bytes,
            "working_set_bytes": prediction.working_set_bytes,
            "bytes_moved": [float(count) for count in prediction.bytes_moved],
            "seconds": prediction.seconds,
            "alone_seconds": self.alone_seconds,
            "source": self.source,
            "stop": self.stop,
        }
        if self.plan is None:
            return report
        return report | dataclasses.asdict(self.plan) | {"columns": prediction.columns}


class _Cut(NamedTuple):
    """The best way to cut the first operators of a run: its seconds, and its last region.

    The region has no plan if it is a single operator.
    """

    seconds: float
    start: int = 0
    plan: ColumnPlan | None = None


class RegionPlanner:
    """Chooses regions and plans.

    Parameters
    ----------
    cpu, column_rows, overlap, plan_for
        As in `tvm_sparse.passes.regions.form_regions.FormRegions`.
    least_gain : float
        The share of time that a region must be expected to gain. Below 0, regions are also formed
        if they are expected to lose that share.

    Attributes
    ----------
    planned : list of PlannedRegion
        All regions that were planned so far, in the order of execution.
    """

    def __init__(
        self,
        cpu: CpuProfile,
        column_rows: ColumnRows,
        overlap: OverlapOption,
        plan_for: PlanFor | None,
        least_gain: float = LEAST_GAIN,
    ) -> None:
        self.cpu = cpu
        self.column_rows, self._overlap, self._plan_for = column_rows, overlap, plan_for
        self._least_gain = least_gain
        self._known: dict[RegionShape, tuple[ColumnPlan, Prediction]] = {}
        self._known_endings: dict[RegionShape, list[Ending]] = {}
        self.planned: list[PlannedRegion] = []

    def partition(self, nodes: Sequence[Node]) -> list[PlannedRegion]:
        """Cut a run of operators so that the expected times add up to the least."""
        alone = [self._alone(node) for node in nodes]
        best = [_Cut(0.0)]
        first = 0
        for end in range(1, len(nodes) + 1):
            # Operators that are no region together are none with those in front of them either.
            first = max(first, end - MOST_STAGES)
            while (longest := region_of(nodes[first:end], self.cpu)) is None:
                first += 1
            best.append(self._last_region(nodes, first, end, longest.shape, alone, best))
        regions: list[PlannedRegion] = []
        end = len(nodes)
        while end:
            _, start, plan = best[end]
            region = (
                self._planned(nodes[start:end], plan, alone[start:end]) if plan else alone[start]
            )
            stop = self._stop(region, regions[0] if regions else None)
            regions.insert(0, dataclasses.replace(region, stop=stop))
            end = start
        regions = [final for region in regions for final in self._final(region)]
        self.planned += regions
        return regions

    def _planned(
        self, nodes: Sequence[Node], plan: ColumnPlan, alone: Sequence[PlannedRegion]
    ) -> PlannedRegion:
        """Return operators as a region with a plan."""
        shape = self._shape(nodes)
        one_by_one = sum(one.alone_seconds for one in alone)
        return PlannedRegion(nodes, shape, plan, predict(shape, plan, self.cpu), one_by_one)

    def _last_region(
        self,
        nodes: Sequence[Node],
        first: int,
        end: int,
        longest: RegionShape,
        alone: Sequence[PlannedRegion],
        best: Sequence[_Cut],
    ) -> _Cut:
        """Return the best cut of the first `end` operators, of those with each last region.

        The `longest` of these regions starts at `first`.
        """
        one_by_one = alone[end - 1].alone_seconds
        cuts = [_Cut(best[end - 1].seconds + one_by_one, end - 1)]
        for start, whole, ending in self._endings(nodes, first, end, longest):
            one_by_one += alone[start].alone_seconds
            seconds = ending.seconds * (1 + self._least_gain)
            measured = None
            if self._plan_for:
                count = len(whole.stages)
                measured = self._plan_for(part(whole.planned, start - end + count, count))
            if measured:
                # Measured and predicted seconds do not compare, so only the share was measured.
                seconds = measured.share * one_by_one
            cuts.append(_Cut(best[start].seconds + seconds, start, ending.plan))
            if ending.seconds > HOPELESS * one_by_one:
                break
        return min(cuts, key=lambda cut: cut.seconds)

    def _endings(
        self, nodes: Sequence[Node], first: int, end: int, longest: RegionShape
    ) -> Iterator[tuple[int, RegionShape, Ending]]:
        """Yield the starts of regions of several operators, the last one first, and the best plans.

        Each comes with the longest region whose end it is. Operators work on one image, unless one
        of their region tells how many there are.
        """
        several = [i for i in range(first, end) if nodes[i].images not in (None, 1)]
        last = max(several, default=end - 2)
        if last < end - 2:
            shape = self._shape(nodes[last + 1 : end])
            endings = self._best_endings(shape)
            for start in range(end - 2, last, -1):
                yield start, shape, endings[start - last - 1]
        if first < end - 1:
            endings = self._best_endings(longest)
            for start in range(min(last, end - 2), first - 1, -1):
                yield start, longest, endings[start - first]

    def _best_endings(self, shape: RegionShape) -> list[Ending]:
        if shape not in self._known_endings:
            self._known_endings[shape] = best_endings(shape, self.cpu, self._overlap)
        return self._known_endings[shape]

    def _shape(self, nodes: Sequence[Node]) -> RegionShape:
        """Return the shape of operators that can be a region."""
        region = region_of(nodes, self.cpu)
        assert region is not None
        return region.shape

    def _alone(self, node: Node) -> PlannedRegion:
        shape = self._shape([node])  # every operator of a run is a region by itself
        prediction = predict_alone(shape, self.cpu)
        return PlannedRegion([node], shape, None, prediction, prediction.seconds)

    def _best_plan(self, shape: RegionShape) -> tuple[ColumnPlan, Prediction]:
        if shape not in self._known:
            self._known[shape] = best_plan(shape, self.cpu, self._overlap)
        return self._known[shape]

    def whole(self, nodes: Sequence[Node], plan: ColumnPlan | Stops) -> list[PlannedRegion]:
        """Return operators that can be one region with a plan, or cut at given stops."""
        if isinstance(plan, ColumnPlan):
            plan = plan.fitted(self._shape(nodes))
            return [self._planned(nodes, plan, [self._alone(node) for node in nodes])]
        parts = [nodes[first:end] for first, end in plan.parts(len(nodes))]
        return [region for part in parts for region in self._part(part)]

    def _part(self, nodes: Sequence[Node]) -> list[PlannedRegion]:
        """Return the operators between two cache stops, measured or by the cost model."""
        if len(nodes) == 1:
            return [self._alone(nodes[0])]
        (chosen,) = self.whole(nodes, self._best_plan(self._shape(nodes))[0])
        return self._final(chosen)

    def _final(self, region: PlannedRegion) -> list[PlannedRegion]:
        """Replace the cost model's plan by the user's, or by one that was measured."""
        plan, source = region.plan, region.source
        if plan is None:
            return [region]
        measured = self._plan_for(region.shape.planned) if self._plan_for else None
        best = measured.plan if measured else None
        if isinstance(self.column_rows, int):
            rows = self.column_rows
            plan, source = ColumnPlan(rows, min(plan.step_rows, rows), plan.overlap), "user"
        elif isinstance(best, Stops):
            parts = self.whole(region.nodes, best)
            stops = ["measured to be faster than together with the next"] * len(parts)
            stops[-1] = region.stop
            return [
                dataclasses.replace(part, source="record", stop=stop)
                for part, stop in zip(parts, stops, strict=True)
            ]
        elif best is not None:
            plan, source = best, "record"
        plan = plan.fitted(region.shape)
        prediction = predict(region.shape, plan, self.cpu)
        return [dataclasses.replace(region, plan=plan, source=source, prediction=prediction)]

    def _stop(self, region: PlannedRegion, following: PlannedRegion | None) -> str:
        """Return why a region ends before the one that follows it."""
        if following is None:
            return "what follows does not work on rows"
        nodes = [*region.nodes, *following.nodes]
        if len(nodes) > MOST_STAGES:
            return f"a region has at most {MOST_STAGES} stages"
        joined = region_of(nodes, self.cpu)
        if joined is None:
            return f"{following.nodes[0].name} needs all rows"
        _, together = self._best_plan(joined.shape)
        apart = region.prediction.seconds + following.prediction.seconds
        return f"{1e6 * apart:.0f} us expected, {1e6 * together.seconds:.0f} with the next region"

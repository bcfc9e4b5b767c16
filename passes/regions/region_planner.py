"""Chooses the operators of each region and its plan: the cheapest partition of a run.

The cost of a run is the sum of its regions' costs, so the best partition of the first operators of
a run is found from the best partitions of fewer of them (dynamic programming).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm_sparse.columns.options import ColumnRows, OverlapOption
from tvm_sparse.columns.plans import ColumnPlan, PlanFor, Stops
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.costs.best_plan import best_plan
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


@dataclass(frozen=True)
class _Cut:
    """The best way to cut the first operators of a run: its seconds, and its last region."""

    seconds: float
    start: int = 0
    region: PlannedRegion | None = None


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
        self.planned: list[PlannedRegion] = []

    def partition(self, nodes: Sequence[Node]) -> list[PlannedRegion]:
        """Cut a run of operators so that the expected times add up to the least."""
        alone = [self._alone(node) for node in nodes]
        best = [_Cut(0.0)]
        for end in range(1, len(nodes) + 1):
            best.append(self._last_region(nodes, end, alone, best))
        regions: list[PlannedRegion] = []
        end = len(nodes)
        while end:
            region = best[end].region
            assert region is not None
            stop = self._stop(region, regions[0] if regions else None)
            regions.insert(0, dataclasses.replace(region, stop=stop))
            end = best[end].start
        regions = [final for region in regions for final in self._final(region)]
        self.planned += regions
        return regions

    def _last_region(
        self,
        nodes: Sequence[Node],
        end: int,
        alone: Sequence[PlannedRegion],
        best: Sequence[_Cut],
    ) -> _Cut:
        """Return the best cut of the first `end` operators, of those with each last region."""
        cuts = [_Cut(best[end - 1].seconds + alone[end - 1].alone_seconds, end - 1, alone[end - 1])]
        for start in range(end - 2, max(end - MOST_STAGES, 0) - 1, -1):
            region = region_of(nodes[start:end], self.cpu)
            if region is None:
                break
            shape = region.shape
            plan, prediction = self._best_plan(shape)
            one_by_one = sum(one.alone_seconds for one in alone[start:end])
            planned = PlannedRegion(nodes[start:end], shape, plan, prediction, one_by_one)
            measured = self._plan_for(shape.planned) if self._plan_for else None
            seconds = prediction.seconds * (1 + self._least_gain)
            if measured is not None:
                # Measured and predicted seconds do not compare, so only the share was measured.
                seconds = measured.share * one_by_one
            cuts.append(_Cut(best[start].seconds + seconds, start, planned))
            if prediction.seconds > HOPELESS * one_by_one:
                break
        return min(cuts, key=lambda cut: cut.seconds)

    def _alone(self, node: Node) -> PlannedRegion:
        region = region_of([node], self.cpu)
        assert region is not None  # every operator of a run is a region by itself
        prediction = predict_alone(region.shape, self.cpu)
        return PlannedRegion([node], region.shape, None, prediction, prediction.seconds)

    def _best_plan(self, shape: RegionShape) -> tuple[ColumnPlan, Prediction]:
        if shape not in self._known:
            self._known[shape] = best_plan(shape, self.cpu, self._overlap)
        return self._known[shape]

    def whole(self, nodes: Sequence[Node], plan: ColumnPlan | Stops) -> list[PlannedRegion]:
        """Return operators that can be one region with a plan, or cut at given stops."""
        if isinstance(plan, ColumnPlan):
            region = region_of(nodes, self.cpu)
            assert region is not None
            one_by_one = sum(self._alone(node).alone_seconds for node in nodes)
            plan = plan.fitted(region.shape)
            prediction = predict(region.shape, plan, self.cpu)
            return [PlannedRegion(nodes, region.shape, plan, prediction, one_by_one)]
        parts = [nodes[first:end] for first, end in plan.parts(len(nodes))]
        return [region for part in parts for region in self._part(part)]

    def _part(self, nodes: Sequence[Node]) -> list[PlannedRegion]:
        """Return the operators between two cache stops, measured or by the cost model."""
        if len(nodes) == 1:
            return [self._alone(nodes[0])]
        region = region_of(nodes, self.cpu)
        assert region is not None  # it is a part of one
        (chosen,) = self.whole(nodes, self._best_plan(region.shape)[0])
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

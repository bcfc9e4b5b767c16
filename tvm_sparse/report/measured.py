"""Regions measured on this machine, together and operator by operator, beside the prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_sparse.columns.plans import ColumnPlan, Stops
from tvm_sparse.costs.best_plan import promising_plans
from tvm_sparse.costs.regions import predict
from tvm_sparse.cpu.profile import CpuProfile, native
from tvm_sparse.errors import TargetError
from tvm_sparse.files import scratch_folder
from tvm_sparse.passes.regions.form_regions import PREFIX
from tvm_sparse.passes.regions.region_planner import PlannedRegion
from tvm_sparse.records.best import plan_to_fields
from tvm_sparse.records.keys import key_of
from tvm_sparse.report.analysis import Analysis
from tvm_sparse.report.measured_runs import MeasuredRun, measure_runs
from tvm_sparse.tuning.devices import Builders, CandidateFailed, Device
from tvm_sparse.tuning.regions import RegionSubject, write_region

SIZES = 5
"""The number of column sizes of a region that are measured besides its own."""

ROUNDS = 7
"""Rounds in which a region's plans run in turns."""


@dataclass(frozen=True)
class MeasuredPlan:
    """A measured plan of a region.

    Attributes
    ----------
    plan : ColumnPlan
        The plan.
    predicted, seconds : float
        The expected time, and the median of the rounds' fastest runs.
    """

    plan: ColumnPlan
    predicted: float
    seconds: float


@dataclass(frozen=True)
class MeasuredRegion:
    """A region, measured by itself.

    Attributes
    ----------
    seconds, alone_seconds : float
        The time of the region with its plan, and of its operators one by one.
    plans : tuple of MeasuredPlan
        The measured plans: its own, and the best plans of some other column sizes.
    """

    seconds: float
    alone_seconds: float
    plans: tuple[MeasuredPlan, ...]

    @property
    def rank_correlation(self) -> float | None:
        """The rank correlation of predicted and measured times; None for fewer than three plans."""
        if len(self.plans) < 3:
            return None
        return rank_correlation(*zip(*((p.predicted, p.seconds) for p in self.plans), strict=True))


@dataclass(frozen=True)
class Measurement:
    """The measured times and memory of a model.

    Attributes
    ----------
    regions : mapping of int to MeasuredRegion
        The regions that could be built, by their numbers.
    together, alone : MeasuredRun
        The whole model with tensor columns, and without.
    """

    regions: Mapping[int, MeasuredRegion]
    together: MeasuredRun
    alone: MeasuredRun

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as values of JSON."""
        return {
            "regions": {
                str(number): {
                    "seconds": region.seconds,
                    "alone_seconds": region.alone_seconds,
                    "rank_correlation": region.rank_correlation,
                }
                for number, region in self.regions.items()
            },
            **{
                name: {"seconds": run.seconds, "peak_bytes": run.peak_bytes}
                for name, run in (("together", self.together), ("alone", self.alone))
            },
        }


def check_target(cpu: CpuProfile) -> None:
    """Refuse a target other than this machine.

    Raises
    ------
    TargetError
        If `cpu` is another processor.
    """
    here = native()
    if cpu.mcpu != here.mcpu:
        raise TargetError(
            f"{cpu.name} is not this machine ({here.mcpu}): regions are measured for the target "
            "native only"
        )


def measure(
    analysis: Analysis, progress: Callable[[str], None] = lambda message: None
) -> Measurement:
    """Measure the regions of a model, and the whole model.

    Regions run on random activations that are not in the private caches, in turns with their
    operators one by one. Regions with the same structure are measured once.

    Parameters
    ----------
    analysis : Analysis
        The analysis of a model for this machine.
    progress : callable
        Called with a line of text before each step.

    Raises
    ------
    TargetError
        If the model was analyzed for another processor.
    """
    cpu = analysis.cpu
    check_target(cpu)
    known: dict[object, MeasuredRegion | None] = {}
    found: dict[int, MeasuredRegion] = {}
    with (
        contextlib.closing(Device(cpu.cores, cpu.l2_bytes)) as device,
        contextlib.closing(Builders(cpu.cores)) as builders,
    ):
        for number, region in enumerate(analysis.regions):
            if region.plan is None:
                continue
            key = key_of(region.shape, cpu), region.plan
            if key not in known:
                progress(f"measuring region {number} of {len(analysis.regions)}")
                known[key] = _measure_region(analysis, number, device, builders)
            measured = known[key]
            if measured is not None:
                found[number] = measured
    progress("measuring the whole model")
    return Measurement(found, *measure_runs(analysis))


def _measure_region(
    analysis: Analysis, number: int, device: Device, builders: Builders
) -> MeasuredRegion | None:
    region, cpu = analysis.regions[number], analysis.cpu
    others = _other_sizes(region, cpu)
    assert region.plan is not None
    plans: list[ColumnPlan | Stops] = [
        region.plan,
        Stops.everywhere(len(region.shape.stages)),
        *others,
    ]
    with scratch_folder() as folder:
        weights = write_region(analysis.together, f"{PREFIX}_{number}", folder)
        subject = RegionSubject(region.shape, folder, cpu.name, cpu.cores, cpu.activations)
        arguments = subject.arguments(weights)
        building = [
            builders.submit(subject.build(plan_to_fields(plan)), folder / f"{i}.so")
            for i, plan in enumerate(plans)
        ]
        with device.session(arguments) as session:
            names = []
            for i, future in enumerate(building):
                try:
                    session.load(str(i), future.result())
                    names.append(i)
                except CandidateFailed:
                    continue
            if names[:2] != [0, 1]:
                return None
            times = session.measure([str(i) for i in names], ROUNDS, hopeless=0)
            for i in names:
                session.unload(str(i))
    # If the machine speeds up in one round, that changes the minimum of one plan, but no median.
    typical = {i: float(np.median(rounds)) for i, rounds in zip(names, times, strict=True)}
    columns = tuple(
        MeasuredPlan(plan, predict(region.shape, plan, cpu).seconds, typical[i])
        for i, plan in enumerate(plans)
        if i in typical and isinstance(plan, ColumnPlan)
    )
    return MeasuredRegion(typical[0], typical[1], columns)


def _other_sizes(region: PlannedRegion, cpu: CpuProfile) -> list[ColumnPlan]:
    """Return the best plans of some column sizes, from the largest size to the smallest."""
    assert region.plan is not None
    best: dict[int, tuple[float, ColumnPlan]] = {}
    for plan in promising_plans(region.shape, cpu):
        seconds = predict(region.shape, plan, cpu).seconds
        if plan.column_rows != region.plan.column_rows:
            known = best.get(plan.column_rows)
            if known is None or seconds < known[0]:
                best[plan.column_rows] = seconds, plan
    plans = [plan for _, plan in best.values()]
    chosen = np.unique(np.linspace(0, len(plans) - 1, min(SIZES, len(plans))).round().astype(int))
    return [plans[i] for i in chosen]


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's coefficient: 1 where the orders are the same, -1 where opposite.

    Equal values share their mean rank.
    """
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]

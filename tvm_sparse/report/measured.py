"""Regions on this machine: measured together and operator by operator, against the prediction."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.columns.plans import ColumnPlan, Stops
from tvm_sparse.compiler import build
from tvm_sparse.costs.best_plan import promising_plans
from tvm_sparse.costs.regions import predict
from tvm_sparse.cpu.profile import CpuProfile, native
from tvm_sparse.cpu.threads import start_pool
from tvm_sparse.errors import TargetError
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.regions.form_regions import PREFIX
from tvm_sparse.passes.regions.region_planner import PlannedRegion
from tvm_sparse.records.best import to_fields
from tvm_sparse.records.keys import key_of
from tvm_sparse.report.analysis import Analysis
from tvm_sparse.report.run_memory import column_bytes, storage_bytes
from tvm_sparse.tuning.devices import Builders, CandidateFailed, Device
from tvm_sparse.tuning.libraries import random_array
from tvm_sparse.tuning.regions import RegionSubject, one_by_one, write_region

SIZES = 5
"""Column sizes that are measured of a region, besides its own."""

ROUNDS = 7
RUN_ROUNDS, RUNS = 9, 3
"""Rounds of a region; of the whole network, and its runs in a round."""


@dataclass(frozen=True)
class MeasuredPlan:
    """A plan of a region.

    Attributes
    ----------
    plan : ColumnPlan
        The plan.
    predicted, seconds : float
        Time as expected, and the median of the rounds' fastest runs.
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
        With its plan, and its operators one by one.
    plans : tuple of MeasuredPlan
        What else was measured: the best plan of other column sizes, and its own.
    """

    seconds: float
    alone_seconds: float
    plans: tuple[MeasuredPlan, ...]

    @property
    def rank_correlation(self) -> float | None:
        """Of predicted and measured time over column sizes; None of fewer than three."""
        if len(self.plans) < 3:
            return None
        return rank_correlation(*zip(*((p.predicted, p.seconds) for p in self.plans), strict=True))


@dataclass(frozen=True)
class MeasuredRun:
    """The whole network, regions together or operator by operator.

    Attributes
    ----------
    seconds : float
        The median of the rounds' fastest inferences.
    activation_bytes, scratch_bytes : int
        Storages of the virtual machine, and columns' rows of all cores.
    """

    seconds: float
    activation_bytes: int
    scratch_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Memory of a run besides weights."""
        return self.activation_bytes + self.scratch_bytes


@dataclass(frozen=True)
class Measurement:
    """What was measured of a model.

    Attributes
    ----------
    regions : mapping of int to MeasuredRegion
        By number; those that could be built.
    together, alone : MeasuredRun
        With tensor columns and without.
    """

    regions: Mapping[int, MeasuredRegion]
    together: MeasuredRun
    alone: MeasuredRun

    def to_json(self) -> dict[str, Any]:
        """Return it as values of JSON."""
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
    """Measure the regions of a model, and the whole of it.

    Regions are run on random activations, which are not in the private caches, in turns with
    their operators one by one. Those with the same structure are measured once.

    Parameters
    ----------
    analysis : Analysis
        For this machine.
    progress : callable
        Called with a line of text now and then.

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
    return Measurement(found, *_measure_runs(analysis))


def _measure_region(
    analysis: Analysis, number: int, device: Device, builders: Builders
) -> MeasuredRegion | None:
    region, cpu = analysis.regions[number], analysis.cpu
    others = _other_sizes(region, cpu)
    assert region.plan is not None
    plans: list[ColumnPlan | Stops] = [region.plan, one_by_one(region.shape), *others]
    with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as name:
        folder = Path(name)
        weights = write_region(analysis.together, f"{PREFIX}_{number}", folder)
        kernel = RegionSubject(region.shape, folder, cpu.name, cpu.cores)
        arguments = kernel.arguments(weights)
        building = [
            builders.submit(kernel.build(to_fields(plan)), folder / f"{i}.so")
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
    # The median of the rounds: a machine that speeds up in one of them helps one plan only.
    typical = {i: float(np.median(rounds)) for i, rounds in zip(names, times, strict=True)}
    columns = tuple(
        MeasuredPlan(plan, predict(region.shape, plan, cpu).seconds, typical[i])
        for i, plan in enumerate(plans)
        if i in typical and isinstance(plan, ColumnPlan)
    )
    return MeasuredRegion(typical[0], typical[1], columns)


def _other_sizes(region: PlannedRegion, cpu: CpuProfile) -> list[ColumnPlan]:
    """Return the best plans of some column sizes, from the largest to the smallest."""
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


def _measure_runs(analysis: Analysis) -> tuple[MeasuredRun, MeasuredRun]:
    """Measure the network with regions and without, in turns."""
    cpu = analysis.cpu
    columns = [(r.shape, r.plan) for r in analysis.regions if r.plan is not None]
    built = [_build(mod, cpu) for mod in (analysis.together, analysis.alone)]
    rng = np.random.default_rng(0)
    inputs = [random_array(param.ty, rng) for param in analysis.alone["main"].params]
    executables = [executable for executable, _ in built]
    with ThreadPoolExecutor(1, initializer=start_pool, initargs=(cpu.cores,)) as executor:
        seconds = executor.submit(_run_in_turns, executables, inputs).result()
    scratch = column_bytes(columns, cpu.cores), 0
    together, alone = (
        MeasuredRun(typical, storages, own)
        for typical, (_, storages), own in zip(seconds, built, scratch, strict=True)
    )
    return together, alone


def _build(mod: tvm.IRModule, cpu: CpuProfile) -> tuple[relax.VMExecutable, int]:
    """Return a module's executable, and the bytes of its storages."""
    storages = 0

    @tvm.transform.module_pass(opt_level=0, name="lower")
    def lower(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        nonlocal storages
        mod = tvm.transform.Sequential(pipeline.lower(cpu))(mod)
        mod = relax.get_pipeline("default_build")(mod)
        storages = storage_bytes(mod)
        return mod

    with cpu.to_target() as target:
        executable = build(mod, target, lower)
    return executable, storages


def _run_in_turns(
    executables: Sequence[relax.VMExecutable], arrays: Sequence[np.ndarray]
) -> list[float]:
    """Return the seconds of a run of each, as `MeasuredRun`; this thread owns the thread pool."""
    inputs = [tvm.runtime.tensor(array) for array in arrays]
    mains = [relax.VirtualMachine(executable, tvm.cpu())["main"] for executable in executables]
    times: list[list[float]] = [[] for _ in mains]
    for number in range(RUN_ROUNDS):
        # Every other round backwards, so that neither is always the one after the other.
        order = range(len(mains)) if number % 2 else reversed(range(len(mains)))
        for i in order:
            runs = []
            for _ in range(RUNS):
                start = time.perf_counter()
                mains[i](*inputs)
                runs.append(time.perf_counter() - start)
            times[i].append(min(runs))
    return [float(np.median(rounds)) for rounds in times]


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's coefficient: 1 where the orders are the same, -1 where opposite.

    Equal values share their mean rank.
    """
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]

"""Finds the best plan of every region of a model by measuring, and records it."""

from __future__ import annotations

import collections
import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tvm

from tvm_sparse import records as tuning_records
from tvm_sparse import targets, trials
from tvm_sparse.api import import_module
from tvm_sparse.columns import RegionShape
from tvm_sparse.engine import check_threads
from tvm_sparse.errors import InputError, TuningError
from tvm_sparse.measuring import Builders, Device, RemoteDevice, Tracker
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.region_planner import LEAST_GAIN
from tvm_sparse.recorded_plans import key_of, to_fields
from tvm_sparse.records import Key
from tvm_sparse.region_candidates import (
    Candidate,
    RegionKernel,
    candidates,
    form_regions,
    one_by_one,
    processor,
    write_region,
)
from tvm_sparse.targets import CpuProfile
from tvm_sparse.trials import Outcome, Progress, Store, Task

Level = Literal["quick", "normal", "thorough"]

LEVELS = {"quick": (12, 1.6), "normal": (48, 2.0), "thorough": (1_000_000, math.inf)}
"""Most trials of a region, and how many times as long as the best a plan may be expected to take
to get one."""

LEAST_GAINS = (LEAST_GAIN, -0.25)
"""Regions are tuned that are expected to gain so much: those of the cost model, and some more."""

LEAST_TRIALS = 4
"""Trials of a region that hardly takes part of the model's time, if the level is quick."""


@dataclass(frozen=True)
class TunedRegion:
    """A region's way through the tuner.

    Attributes
    ----------
    shape : RegionShape
        Its stages.
    count : int
        Regions of the model that have this structure.
    candidates : tuple of Candidate
        Plans with their predictions, the cost model's choice first.
    outcome : Outcome
        What was measured.
    """

    shape: RegionShape
    count: int
    candidates: tuple[Candidate, ...]
    outcome: Outcome

    @property
    def name(self) -> str:
        """Operators and extents."""
        return self.outcome.task.name


def tune(
    model: str | os.PathLike[str] | tvm.IRModule,
    shapes: Mapping[str, Sequence[int]] | None = None,
    target: str = "native",
    threads: int | None = None,
    *,
    level: Level = "quick",
    trials_per_region: int | None = None,
    tracker: Tracker | None = None,
    records: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress | str], None] = lambda state: None,
) -> list[TunedRegion]:
    """Measure plans of a model's regions and record the times.

    What was recorded before is not measured again, so that a run that was ended goes on.

    Parameters
    ----------
    model, shapes, target, threads
        As of `tvm_sparse.compile`. Another target than this machine needs `tracker`.
    level : str
        ``"quick"``, ``"normal"`` or ``"thorough"``: a dozen, some dozens or all plans of a region.
    trials_per_region : int, optional
        Most trials of a region, in place of `level`.
    tracker : Tracker, optional
        Measure on its devices, all of them at once, in place of this machine.
    records : str or PathLike, optional
        File to which the records are added; by default the one in the user's data folder.
    progress : callable
        Called with a line of text or after each trial.

    Returns
    -------
    list of TunedRegion
        Each structure once, the most time-consuming first.

    Raises
    ------
    ModelError, InputError, TargetError
        As `tvm_sparse.compile`.
    RecordsError
        If the records cannot be read or written.
    TuningError
        If no device can be had, or none is left.
    """
    if level not in LEVELS:
        raise InputError(f"unknown level {level!r}: quick, normal or thorough")
    if trials_per_region is not None and trials_per_region < 1:
        raise InputError(f"trials must be at least 1, got {trials_per_region}")
    most, hopeless = LEVELS[level]
    check_threads(threads)
    cpu = processor(target, threads)
    here = targets.native()
    if tracker is None and target != "native" and cpu.mcpu != here.mcpu:
        raise TuningError(
            f"{target} is not this machine ({here.mcpu}): tune on a device, with --tracker and "
            "--key, or for --target native"
        )
    store = Store(Path(records) if records else tuning_records.default_path())
    with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as folder:
        devices = _devices(tracker, cpu)
        with _closing(devices, Builders(len(os.sched_getaffinity(0)))) as builders:
            progress("choosing regions")
            limits = trials_per_region or most, hopeless
            found = region_tasks(model, shapes, target, cpu, Path(folder), *limits)
            tasks = [task for _, _, _, task in found]
            outcomes = trials.run(tasks, devices, builders, store, progress)
    return [
        TunedRegion(shape, count, plans, outcome)
        for (shape, count, plans, _), outcome in zip(found, outcomes, strict=True)
    ]


def _devices(tracker: Tracker | None, cpu: CpuProfile) -> list[Device]:
    flush_bytes = cpu.l2_bytes
    if tracker is None:
        return [Device(cpu.cores, flush_bytes)]
    return [RemoteDevice(tracker, cpu.cores, flush_bytes) for _ in range(tracker.devices())]


@contextlib.contextmanager
def _closing(devices: Sequence[Device], builders: Builders) -> Iterator[Builders]:
    try:
        yield builders
    finally:
        builders.close()
        for device in devices:
            device.close()


Found = tuple[RegionShape, int, tuple[Candidate, ...], Task]


def region_tasks(
    model: str | os.PathLike[str] | tvm.IRModule,
    shapes: Mapping[str, Sequence[int]] | None,
    target: str,
    cpu: CpuProfile,
    folder: Path,
    most: int,
    hopeless: float,
) -> list[Found]:
    """Return every structure of the model's regions, the most time-consuming first.

    Parameters
    ----------
    model, shapes, target
        As of `tune`.
    cpu : CpuProfile
        `processor` of the target and the threads.
    folder : Path
        Where files of the tasks go.
    most : int
        Most trials of a region.
    hopeless : float
        How many times as long as the best a plan may be expected to take.

    Returns
    -------
    list of (RegionShape, int, tuple of Candidate, Task)
        With each, how many regions of the model are alike, and the plans to try.
    """
    mod = import_module(model, shapes).mod
    with cpu.to_target():
        passes = [*pipeline.canonicalize(), *pipeline.sparsify(cpu)]
        mod = tvm.transform.Sequential(passes)(mod)
        formed = [form_regions(mod, cpu, least_gain) for least_gain in LEAST_GAINS]
    regions: dict[Key, _Region] = {}
    for i, (mod, named) in enumerate(formed):
        keys = {name: key_of(shape, cpu) for name, shape in named.items()}
        counts = collections.Counter(keys.values())
        for name, key in keys.items():
            if key not in regions:
                plans = candidates(named[name], cpu, hopeless, is_formed=i == 0)
                regions[key] = _Region(mod, name, named[name], counts[key], plans)
    mean = float(np.mean([region.seconds for region in regions.values()])) if regions else 0.0
    found: list[Found] = []
    for key, region in sorted(regions.items(), key=lambda item: -item[1].seconds):
        # Where little time is spent, little is to be gained.
        share = max(round(most * region.seconds / mean), min(most, LEAST_TRIALS))
        chosen = tuple(region.plans[: min(most, share) + 1])
        own = folder / str(len(found))
        own.mkdir()
        weights = write_region(region.mod, region.name, own)
        kernel = RegionKernel(region.shape, own, target, cpu.cores)
        task = Task(
            key.region.partition(" #")[0],
            key,
            tuple(to_fields(candidate.plan) for candidate in chosen),
            kernel.build,
            kernel.arguments(weights),
            references=(to_fields(one_by_one(region.shape)),),
        )
        found.append((region.shape, region.count, chosen, task))
    return found


@dataclass(frozen=True)
class _Region:
    """A region of a module, and its plans."""

    mod: tvm.IRModule
    name: str
    shape: RegionShape
    count: int
    plans: Sequence[Candidate]

    @property
    def seconds(self) -> float:
        return self.count * self.plans[0].seconds


def seconds_of(tuned: Sequence[TunedRegion]) -> tuple[float, float]:
    """Return the seconds of all regions together by default plans and by the best."""
    before = after = 0.0
    for region in tuned:
        outcome = region.outcome
        if outcome.best and outcome.default:
            best = float(np.median(outcome.best.seconds))
            after += region.count * best
            before += region.count * best * outcome.gain
    return before, after

"""Finds by measuring how the parts of a model run fastest, and records it."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import tvm

from tvm_sparse import layer_kernels, targets, trials
from tvm_sparse import records as tuning_records
from tvm_sparse.api import import_module
from tvm_sparse.columns import RegionShape
from tvm_sparse.engine import check_threads
from tvm_sparse.errors import InputError, TuningError
from tvm_sparse.kernel_candidates import LayerKernel, kernel_candidates
from tvm_sparse.measuring import Arguments, Builders, Device, RemoteDevice
from tvm_sparse.network_candidates import NetworkKernel, lanes_candidates
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.choices import Choices, model_key, token_network
from tvm_sparse.passes.constant_layers import ConstantLayer, constant_layers
from tvm_sparse.passes.region_planner import LEAST_GAIN
from tvm_sparse.recorded_plans import (
    BY_COST_MODEL,
    RecordedPlans,
    is_plan,
    key_of,
    layer_key,
    target_key,
    to_fields,
)
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
from tvm_sparse.remote import Board
from tvm_sparse.targets import CpuProfile
from tvm_sparse.trials import Outcome, Progress, Store, Task

Level = Literal["quick", "normal", "thorough"]

LEVELS = {"quick": (12, 1.6), "normal": (48, 2.0), "thorough": (1_000_000, math.inf)}
"""Most trials of a region or a layer, and how many times as long as the best a candidate may be
expected to take to get one."""

LEAST_GAINS = (LEAST_GAIN, -0.25)
"""Regions are tuned that are expected to gain so much: those of the cost model, and some more."""

MORE_ROUNDS = 3
"""How often regions are tuned that were formed only because of what was measured."""

LEAST_TRIALS = 4
"""Trials of what hardly takes part of the model's time, if the level is quick."""


Found: TypeAlias = "tuple[Task, int, RegionShape | None, tuple[Candidate, ...]]"
"""A task; how often its structure occurs; of a region, its stages and the plans to try."""


@dataclass(frozen=True)
class Tuned:
    """A choice's way through the tuner: a network's lanes, a layer's kernel or a region's plan.

    Attributes
    ----------
    outcome : Outcome
        What was measured.
    count : int
        Layers or regions of the model that have this structure.
    shape : RegionShape, optional
        Stages of a region.
    candidates : tuple of Candidate
        Plans of a region with their predictions, the cost model's choice first.
    """

    outcome: Outcome
    count: int
    shape: RegionShape | None = None
    candidates: tuple[Candidate, ...] = ()

    @property
    def name(self) -> str:
        """Operators and extents."""
        return self.outcome.task.name

    @property
    def kind(self) -> str:
        """What it is: ``"lanes"``, ``"layers"``, ``"regions"`` or ``"model"``."""
        if self.shape is not None:
            return "regions"
        fields = self.outcome.task.plans[0]
        return next(
            (k for k, f in (("lanes", "lanes"), ("model", "choices")) if f in fields), "layers"
        )


def tune(
    model: str | os.PathLike[str] | tvm.IRModule,
    shapes: Mapping[str, Sequence[int]] | None = None,
    target: str = "native",
    threads: int | None = None,
    *,
    level: Level = "quick",
    trials_per_region: int | None = None,
    board: Board | None = None,
    records: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress | str], None] = lambda state: None,
) -> list[Tuned]:
    """Measure how the parts of a model can be computed and record the times.

    First the lanes of panels of tokens, by the whole model; then the kernels of its layers, each by
    itself; then, with these, how its regions are cut; and at last the whole model with and without
    all of that. What was recorded before is not measured
    again, so that a run that was ended goes on.

    Parameters
    ----------
    model, shapes, target, threads
        As of `tvm_sparse.compile`. Another target than this machine needs `board`.
    level : str
        ``"quick"``, ``"normal"`` or ``"thorough"``: a dozen, some dozens or all plans of a region,
        and kernels of a layer.
    trials_per_region : int, optional
        Most trials of a region or a layer, in place of `level`.
    board : Board, optional
        Measure there, in place of this machine; on all boards of a tracker at once.
    records : str or PathLike, optional
        File to which the records are added; by default the one in the user's data folder.
    progress : callable
        Called with a line of text or after each trial.

    Returns
    -------
    list of Tuned
        Each structure once: the lanes if it has tokens, layers, regions, of both the most
        time-consuming first, and the model.

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
    if board is None and target != "native" and cpu.mcpu != here.mcpu:
        raise TuningError(
            f"{target} is not this machine ({here.mcpu}): tune on a board, with --rpc, or "
            "--tracker and --key; or for --target native"
        )
    store = Store(Path(records) if records else tuning_records.default_path(), is_plan)
    measured = RecordedPlans(store.records)
    tuned: list[Tuned] = []
    with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as name:
        devices = _devices(board, cpu)
        with _closing(devices, Builders(len(os.sched_getaffinity(0)))) as builders:

            def run(title: str, found: Sequence[Found]) -> None:
                progress(title)
                outcomes = trials.run(
                    [task for task, *_ in found], devices, builders, store, progress
                )
                for outcome, (_, count, shape, plans) in zip(outcomes, found, strict=True):
                    tuned.append(Tuned(outcome, count, shape, plans))

            progress("reading the model")
            imported = import_module(model, shapes).mod
            mod = pipeline.canonical(imported, cpu)
            setting = Setting(target, cpu, Path(name), trials_per_region or most, hopeless)
            kernel = NetworkKernel.of(
                model, shapes, setting.own_folder(), target, cpu.cores, store.path
            )
            arguments = kernel.arguments(setting.own_folder(), imported["main"])
            run("lanes", lanes_tasks(mod, kernel, arguments, setting))
            choices = measured.choices_on(cpu)
            run("kernels", layer_tasks(mod, choices, setting))
            panels = pipeline.on_panels(mod, cpu, choices)
            formed = [form_regions(panels, cpu, least_gain) for least_gain in LEAST_GAINS]
            run("regions", region_tasks(formed, setting))
            for _ in range(MORE_ROUNDS):
                # What was measured may make others look better, which were not measured yet.
                formed = [form_regions(panels, cpu, LEAST_GAIN, choices.plan_for)]
                done = {part.outcome.task.key for part in tuned}
                found = region_tasks(formed, setting)
                run("regions", [region for region in found if region[0].key not in done])
            keys = [part.outcome.task.key for part in tuned if part.shape is None]
            keys += [key_of(shape, cpu) for shape in formed[0][1].values()]
            task = model_task(mod, store, keys, kernel, arguments, setting)
            run("the whole model", [(task, 1, None, ())] if tuned else [])
    return tuned


@dataclass(frozen=True)
class Setting:
    """What all tasks have in common.

    Attributes
    ----------
    target : str
        Name of the CPU profile.
    cpu : CpuProfile
        `processor` of the target and the threads.
    folder : Path
        Where files of the tasks go.
    most : int
        Most trials of a task.
    hopeless : float
        How many times as long as the best a candidate may be expected to take.
    """

    target: str
    cpu: CpuProfile
    folder: Path
    most: int
    hopeless: float

    def own_folder(self) -> Path:
        """Make a folder for one task."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def share(self, seconds: float, mean: float) -> int:
        """Return the most trials of a task: where little time is spent, little is to be gained."""
        share = max(round(self.most * seconds / mean), min(self.most, LEAST_TRIALS))
        return min(self.most, share)


def _devices(board: Board | None, cpu: CpuProfile) -> list[Device]:
    flush_bytes = cpu.l2_bytes
    if board is None:
        return [Device(cpu.cores, flush_bytes)]
    return [RemoteDevice(board, cpu.cores, flush_bytes) for _ in range(board.check())]


@contextlib.contextmanager
def _closing(devices: Sequence[Device], builders: Builders) -> Iterator[Builders]:
    try:
        yield builders
    finally:
        builders.close()
        for device in devices:
            device.close()


def model_task(
    mod: tvm.IRModule,
    store: Store,
    keys: Sequence[Key],
    kernel: NetworkKernel,
    arguments: Arguments,
    setting: Setting,
) -> Task:
    """Return the task to tell whether the model as a whole is faster with the records.

    Parameters
    ----------
    mod : IRModule
        The model, from `canonical`.
    store : Store
        The records.
    keys : sequence of Key
        What of them the model uses; if that changes, the model is measured again.
    kernel : NetworkKernel
        The same to build.
    arguments : Arguments
        What it is called with.
    setting : Setting
        What all tasks have in common.
    """
    best = [store.records.best(key) for key in keys]
    used = sorted(repr((r.key, sorted(r.plan.items()))) for r in best if r)
    digest = hashlib.sha256("".join(used).encode()).hexdigest()[:16]
    cpu = setting.cpu
    key = Key(model_key(mod, cpu), target_key(cpu), cpu.cores)
    plans = {"choices": BY_COST_MODEL}, {"choices": f"records {digest}"}
    return Task(key.region.partition(" #")[0], key, plans, kernel.build, arguments)


def lanes_tasks(
    mod: tvm.IRModule, kernel: NetworkKernel, arguments: Arguments, setting: Setting
) -> list[Found]:
    """Return the task to choose lanes, unless there is nothing to choose.

    Parameters
    ----------
    mod : IRModule
        The model, from `canonical`.
    kernel : NetworkKernel
        The same to build.
    arguments : Arguments
        What it is called with.
    setting : Setting
        What all tasks have in common.
    """
    cpu = setting.cpu
    network = token_network(mod, cpu)
    plans = lanes_candidates(network, cpu, setting.hopeless)[: setting.most + 1]
    if len(plans) < 2:
        return []
    task = Task(
        network.name,
        Key(network.key, target_key(cpu), cpu.cores),
        tuple({"lanes": plan.lanes} for plan in plans),
        kernel.build,
        arguments,
    )
    return [(task, 1, None, ())]


def layer_tasks(mod: tvm.IRModule, choices: Choices, setting: Setting) -> list[Found]:
    """Return the kernels to choose of every layer, the most time-consuming layers first.

    Parameters
    ----------
    mod : IRModule
        The model, from `canonical`.
    choices : Choices
        The lanes that were measured.
    setting : Setting
        What all tasks have in common.
    """
    cpu = setting.cpu
    lanes = choices.lanes_for(token_network(mod, cpu))
    own_cpu = replace(cpu, token_lanes=lanes or 0)
    counts: collections.Counter[str] = collections.Counter()
    layers: dict[str, ConstantLayer] = {}
    for own in constant_layers(mod, own_cpu):
        counts[layer_key(own.layer)] += 1
        layers.setdefault(layer_key(own.layer), own)
    plans = {
        key: kernel_candidates(own.layer, cpu, setting.hopeless) for key, own in layers.items()
    }
    seconds = {key: counts[key] * plans[key][0].seconds for key in layers}
    mean = float(np.mean(list(seconds.values()))) if seconds else 0.0
    found: list[Found] = []
    for key in sorted(layers, key=lambda key: -seconds[key]):
        layer, weight = layers[key].layer, layers[key].weight
        chosen = plans[key][: setting.share(seconds[key], mean) + 1]
        kernel = LayerKernel.write(layer, weight, setting.own_folder(), setting.target, cpu.cores)
        task = Task(
            layer.name,
            Key(key, target_key(cpu), cpu.cores),
            tuple(layer_kernels.to_fields(candidate.tiling) for candidate in chosen),
            kernel.build,
            kernel.arguments(),
        )
        found.append((task, counts[key], None, ()))
    return found


def region_tasks(
    formed: Sequence[tuple[tvm.IRModule, Mapping[str, RegionShape]]], setting: Setting
) -> list[Found]:
    """Return every structure of a model's regions, the most time-consuming first.

    Parameters
    ----------
    formed : sequence of (IRModule, mapping of str to RegionShape)
        The model in regions, as `form_regions` returns it; the first one as it would be compiled.
    setting : Setting
        What all tasks have in common.
    """
    cpu = setting.cpu
    regions: dict[Key, _Region] = {}
    for i, (mod, named) in enumerate(formed):
        keys = {name: key_of(shape, cpu) for name, shape in named.items()}
        counts = collections.Counter(keys.values())
        for name, key in keys.items():
            if key not in regions:
                plans = candidates(named[name], cpu, setting.hopeless, is_formed=i == 0)
                regions[key] = _Region(mod, name, named[name], counts[key], plans)
    mean = float(np.mean([region.seconds for region in regions.values()])) if regions else 0.0
    found: list[Found] = []
    for key, region in sorted(regions.items(), key=lambda item: -item[1].seconds):
        chosen = tuple(region.plans[: setting.share(region.seconds, mean) + 1])
        folder = setting.own_folder()
        weights = write_region(region.mod, region.name, folder)
        kernel = RegionKernel(region.shape, folder, setting.target, cpu.cores)
        task = Task(
            key.region.partition(" #")[0],
            key,
            tuple(to_fields(candidate.plan) for candidate in chosen),
            kernel.build,
            kernel.arguments(weights),
            references=(to_fields(one_by_one(region.shape)),),
        )
        found.append((task, region.count, region.shape, chosen))
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


def seconds_of(tuned: Sequence[Tuned]) -> dict[str, tuple[float, float]]:
    """Return the seconds of all networks, layers and regions, by default and by the best."""
    sums: dict[str, tuple[float, float]] = {}
    for part in tuned:
        outcome = part.outcome
        if outcome.best and outcome.default:
            best = part.count * float(np.median(outcome.best.seconds))
            before, after = sums.get(part.kind, (0.0, 0.0))
            sums[part.kind] = before + best * outcome.gain, after + best
    return sums

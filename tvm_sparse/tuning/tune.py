"""Finds by measurements how the parts of a model run fastest, and records the times."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tvm

from tvm_sparse.compile_decoder import refuse_decoder
from tvm_sparse.cpu.precision import PrecisionOption, processor
from tvm_sparse.cpu.profile import CpuProfile, native
from tvm_sparse.cpu.this_machine import usable_cores
from tvm_sparse.cpu.threads import check_threads
from tvm_sparse.errors import InputError, TuningError
from tvm_sparse.files import scratch_folder
from tvm_sparse.frontends.hinted import at_hints
from tvm_sparse.frontends.load import import_module, no_fallback
from tvm_sparse.frontends.model_files import ModelFiles
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.regions.region_planner import LEAST_GAIN
from tvm_sparse.records.best import RecordedPlans, is_plan
from tvm_sparse.records.file import check_file, default_path
from tvm_sparse.records.keys import key_of
from tvm_sparse.runtime.board import Board
from tvm_sparse.specs import Hints
from tvm_sparse.tuning import trials
from tvm_sparse.tuning.devices import Builders, Device, RemoteDevice
from tvm_sparse.tuning.lanes import lanes_parts
from tvm_sparse.tuning.layers import layer_parts
from tvm_sparse.tuning.model import ModelSubject, model_part
from tvm_sparse.tuning.part import Part, Setting
from tvm_sparse.tuning.regions import form_regions, region_parts
from tvm_sparse.tuning.task import Outcome, Progress, Store
from tvm_sparse.verification.calibration import calibration_for

Level = Literal["quick", "normal", "thorough"]

LEVELS = {"quick": (10, 1.6), "normal": (48, 2.0), "thorough": (1_000_000, math.inf)}
"""For each level, the most trials of a part, and how many times as long as the best candidate a
candidate may be expected to take and still get a trial."""

LEAST_GAINS = (LEAST_GAIN, -0.25)
"""Shares of the time that regions must be expected to gain to be tuned.

The first one gives the regions of the cost model. The second gives more regions, which are expected
to lose up to a quarter and may gain in fact.
"""

MORE_ROUNDS = 8
"""How often the regions are formed again with what was measured, to tune new ones among them."""


@dataclass(frozen=True, kw_only=True)
class Tuned(Part):
    """A part of a model after its tuning.

    Attributes
    ----------
    outcome : Outcome
        What was measured.
    """

    outcome: Outcome


def tune(
    model: str | os.PathLike[str] | tvm.IRModule,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    target: str = "native",
    threads: int | None = None,
    *,
    level: Level = "quick",
    trials_per_region: int | None = None,
    board: Board | None = None,
    records: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress | str], None] = lambda state: None,
    precision: PrecisionOption = "float32",
    calibration: Mapping[str, Any] | None = None,
    hints: Hints | None = None,
) -> list[Tuned]:
    """Measure how the parts of a model can be computed and record the times.

    The lanes of panels of tokens come first, measured by the whole model. Then come the kernels of
    its layers, each by itself; with these, the plans of its regions; and at last the whole model
    with and without all of these choices. What was recorded before is not measured again, so a run
    that was ended goes on where it stopped.

    Parameters
    ----------
    model, shapes, target, threads
        As `tvm_sparse.compile` takes them. A target other than this machine needs `board`.
    level : str
        ``"quick"``, ``"normal"`` or ``"thorough"``: ten, some dozens or all of the plans of each
        region and of the kernels of each layer.
    trials_per_region : int, optional
        The most trials of a region or a layer, in place of `level`.
    board : Board, optional
        The board to measure on, in place of this machine; all boards of a tracker measure at once.
    records : str or PathLike, optional
        The file to which the records are added; by default the one in the user's data folder.
    progress : callable
        Called with a line of text or after each trial.
    precision : str
        As `tvm_sparse.compile` takes it; records of one precision do not serve another.
    calibration : mapping of str to array, optional
        As `tvm_sparse.compile` takes it, for layers that stay in float32.
    hints : mapping of str to int or sequence of int, optional
        As `tvm_sparse.compile` takes it: open dimensions have its first sizes in all measurements.
        A library for any sizes uses the records if it is compiled with the same hints.

    Returns
    -------
    list of Tuned
        Each structure once: the lanes, if the model has tokens; the layers and the regions, with
        the most time-consuming first; and the model.

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
    cpu = processor(target, threads, precision)
    here = native()
    if board is None and target != "native" and cpu.mcpu != here.mcpu:
        raise TuningError(
            f"{target} is not this machine ({here.mcpu}): tune on a board, with --rpc, or "
            "--tracker and --key; or for --target native"
        )
    path = Path(records) if records else default_path()
    check_file(path, () if isinstance(model, tvm.IRModule) else ModelFiles(Path(model)))
    store = Store(path, is_plan)
    measured = RecordedPlans(store.records)
    tuned: list[Tuned] = []
    with scratch_folder() as folder:
        devices = _devices(board, cpu)
        with _closing(devices, Builders(usable_cores())) as builders:

            def run(title: str, parts: Sequence[Part]) -> None:
                progress(title)
                tasks = [part.task for part in parts]
                outcomes = trials.run(tasks, devices, builders, store, progress)
                for part, outcome in zip(parts, outcomes, strict=True):
                    tuned.append(Tuned(**vars(part), outcome=outcome))

            progress("reading the model")
            refuse_decoder(model, shapes)
            where = cpu.architecture if board is None else "a board"
            hinted = at_hints(model, shapes, hints)
            fixed, sizes, cpu = hinted.model, hinted.shapes, hinted.on(cpu)
            imported = import_module(fixed, sizes, no_fallback(where)).mod
            mod = pipeline.canonical(imported, cpu)
            setting = Setting(target, cpu, folder, trials_per_region or most, hopeless)
            keep = calibration_for(cpu, model, shapes, hints, calibration).keep_float32
            own = setting.own_folder()
            subject = ModelSubject.of(fixed, sizes, own, target, cpu, store.path, keep)
            arguments = subject.arguments(setting.own_folder(), imported["main"])
            run("lanes", lanes_parts(mod, subject, arguments, setting))
            # The verdict on the whole model does not count: it is what is measured at the end.
            lookups = replace(measured.lookups_on(cpu), refuses=lambda key: False)
            run("kernels", layer_parts(mod, lookups, setting, keep))
            panels = pipeline.front(imported, cpu, lookups, keep).mod
            formed = [form_regions(panels, cpu, least_gain) for least_gain in LEAST_GAINS]
            run("regions", region_parts(formed, setting))
            for _ in range(MORE_ROUNDS):
                # With what was measured, other regions may look better that were not measured yet.
                formed = [form_regions(panels, cpu, LEAST_GAIN, lookups.plan_for)]
                more = region_parts(formed, setting, done={part.task.key for part in tuned})
                if not more:
                    break
                run("regions", more)
            keys = [part.task.key for part in tuned if part.kind != "regions"]
            keys += [key_of(shape, cpu) for shape in formed[0][1].values()]
            if tuned:
                run("the whole model", [model_part(mod, store, keys, subject, arguments, setting)])
    return tuned


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


def seconds_of(tuned: Sequence[Tuned]) -> dict[str, tuple[float, float]]:
    """Return for each kind of part the sum of its seconds by default, and under the best plans."""
    sums: dict[str, tuple[float, float]] = {}
    for part in tuned:
        outcome = part.outcome
        if outcome.best and outcome.default:
            best = part.count * float(np.median(outcome.best.seconds))
            before, after = sums.get(part.kind, (0.0, 0.0))
            sums[part.kind] = before + best * outcome.gain, after + best
    return sums

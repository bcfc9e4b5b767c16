"""The whole network measured on this machine, with regions and without."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.building import build
from tvm_sparse.compiling import one_at_a_time
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.threads import start_pool
from tvm_sparse.passes import pipeline
from tvm_sparse.report.analysis import Analysis
from tvm_sparse.report.run_memory import column_bytes, storage_bytes
from tvm_sparse.tuning.libraries import random_array

RUN_ROUNDS = 9
"""Rounds in which the network runs with regions and without."""

RUNS = 3
"""Runs in a round, of which the fastest counts."""


@dataclass(frozen=True)
class MeasuredRun:
    """A measured run of the whole network, with regions or without.

    Attributes
    ----------
    seconds : float
        The median of the rounds' fastest inferences.
    activation_bytes, scratch_bytes : int
        The memory for activations between regions, and for the rows of columns on all cores.
    """

    seconds: float
    activation_bytes: int
    scratch_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The memory of a run besides weights."""
        return self.activation_bytes + self.scratch_bytes


def measure_runs(analysis: Analysis) -> tuple[MeasuredRun, MeasuredRun]:
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


@one_at_a_time
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
    """Return the seconds of a run of each executable; this thread owns the thread pool."""
    inputs = [tvm.runtime.tensor(array) for array in arrays]
    mains = [relax.VirtualMachine(executable, tvm.cpu())["main"] for executable in executables]
    times: list[list[float]] = [[] for _ in mains]
    for number in range(RUN_ROUNDS):
        # Every other round runs backwards, so that neither always follows the other.
        order = range(len(mains)) if number % 2 else reversed(range(len(mains)))
        for i in order:
            runs = []
            for _ in range(RUNS):
                start = time.perf_counter()
                mains[i](*inputs)
                runs.append(time.perf_counter() - start)
            times[i].append(min(runs))
    return [float(np.median(rounds)) for rounds in times]

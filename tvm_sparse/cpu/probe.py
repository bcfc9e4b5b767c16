"""Measures this machine: sizes and bandwidths of its caches and memory, and its clock.

One core reads arrays of growing size again and again. The plateaus of that curve of bandwidth are
the levels. In the middle of each level, copies and the reads of all cores are measured as well.
"""

from __future__ import annotations

import functools
import math
import operator
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.measurement import CpuMeasurement, Plateau, plateaus
from tvm_sparse.cpu.memory_system import Bandwidth, MemorySystem
from tvm_sparse.cpu.peak_rates import fma_peak
from tvm_sparse.cpu.processors import KB, MB
from tvm_sparse.cpu.profile import CpuProfile, native
from tvm_sparse.cpu.rates import FMA_PER_CYCLE
from tvm_sparse.cpu.this_machine import cpu_name
from tvm_sparse.cpu.threads import start_pool
from tvm_sparse.errors import TargetError

_SMALLEST = 8 * KB
_LARGEST = 1024 * MB
"""Bytes of the smallest and of the largest array."""

_FREE_SHARE = 0.25
"""Share of the free memory that the largest array may take."""

_STEPS_PER_OCTAVE = 2
"""Array sizes from one size to its double."""

_UNROLLED = 8
"""Vectors that an iteration of a loop reads, each into a sum of its own."""

_TURN_BYTES = 4 * MB
"""Fewest bytes that a run moves; from L1 that takes about 20 us."""

_TURN_SECONDS = 0.01
"""Shortest time for an array size in a round, in seconds."""

Report = Callable[[str], None]


def measure(progress: Report = lambda text: None, rounds: int = 5) -> CpuMeasurement:
    """Measure this machine, on all cores that the process may use.

    Takes less than a minute. The best of several rounds counts, because other programs can only
    make a machine slower.

    Parameters
    ----------
    progress : callable
        Called with a text that says what is being measured.
    rounds : int
        How often everything is measured.

    Raises
    ------
    TargetError
        If the curve shows too few levels.
    """
    cpu = native()
    with ThreadPoolExecutor(1, initializer=start_pool, initargs=(cpu.cores,)) as executor:
        return executor.submit(_measure, cpu, progress, rounds).result()


def _measure(cpu: CpuProfile, progress: Report, rounds: int) -> CpuMeasurement:
    progress("compiling")
    largest = min(_LARGEST, int(_free_memory() * _FREE_SHARE))
    probe = Probe(cpu, largest)
    octaves = _STEPS_PER_OCTAVE * math.log2(largest / _SMALLEST)
    sizes = [_SMALLEST * 2 ** (i / _STEPS_PER_OCTAVE) for i in range(int(octaves) + 1)]

    def best(what: str, sizes: Sequence[float], cores: int, copies: bool) -> list[float]:
        rates = [0.0] * len(sizes)
        for turn in range(rounds):
            for i, size in enumerate(sizes):
                progress(f"{what}, {size / KB:,.0f} KB, round {turn + 1} of {rounds}")
                rates[i] = max(rates[i], probe.rate(size, cores, copies))
        return rates

    levels = plateaus(sizes, best("reading", sizes, 1, copies=False))
    _check(levels)
    middles = [_middle(level, sizes, 1) for level in levels]
    copy = best("copying", middles, 1, copies=True)
    parts = middles[:2] + [_middle(level, sizes, cpu.cores) for level in levels[2:]]
    shared = best(f"reading, {cpu.cores} cores", parts, cpu.cores, copies=False)
    progress("multiply-adds")
    clock_hz = fma_peak(cpu) / (2 * FMA_PER_CYCLE * cpu.vector_lanes())

    # The two nearest levels are private.
    bandwidths = [
        Bandwidth(level.rate, copy[i], None if i < 2 else max(shared[i], level.rate))
        for i, level in enumerate(levels)
    ]
    l1, l2, *outer = bandwidths
    l3_bytes = round(levels[2].size) if len(levels) > 3 else 0
    return CpuMeasurement(
        cpu=cpu_name(),
        cores=cpu.cores,
        cache_bytes=(round(levels[0].size), round(levels[1].size), l3_bytes),
        system=MemorySystem(clock_hz, l1, l2, l3=outer[0], memory=outer[-1]),
    )


def _check(levels: Sequence[Plateau]) -> None:
    rates = [level.rate for level in levels]
    if len(levels) < 3 or sorted(rates, reverse=True) != rates:
        shown = ", ".join(f"{rate / 1e9:.1f}" for rate in rates)
        raise TargetError(
            f"reading from this machine's caches and memory shows {len(levels)} levels ({shown} "
            "GB/s), not L1, L2 and memory at least: try again when nothing else is running"
        )


def _middle(level: Plateau, sizes: Sequence[float], cores: int) -> float:
    """Return an array size well inside a level for each core; for the last level, its largest."""
    first = sizes[level.first]
    if math.isinf(level.size):
        return sizes[level.end - 1]
    return max(min(math.sqrt(first * level.size), level.size / cores / 2), first)


def _free_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Probe:
    """Two compiled loops and the array that they run over."""

    def __init__(self, cpu: CpuProfile, largest: int) -> None:
        self._turn = 4 * _UNROLLED * cpu.vector_lanes()
        self._floats = (
            largest // 4 // (_UNROLLED * cpu.vector_lanes()) * _UNROLLED * cpu.vector_lanes()
        )
        names = {"read": False, "copy": True}
        module = tvm.IRModule(
            {name: _loop(name, cpu, self._floats, copies) for name, copies in names.items()}
        )
        self._library = tvm.compile(module, target=cpu.to_target())
        # Linux maps all pages that were never written to one page of zeros.
        self._array = tvm.runtime.tensor(np.ones(self._floats, np.float32))
        self._sums = tvm.runtime.tensor(np.zeros(cpu.cores * cpu.vector_lanes(), np.float32))

    def rate(self, size: float, cores: int, copies: bool) -> float:
        """Return the bytes a second that `cores` cores move, each in an array of `size` bytes.

        The arrays of all cores together are no larger than the largest array.
        """
        halves = 2 if copies else 1
        turns = max(int(min(size, 4 * self._floats / cores) / halves) // self._turn, 1)
        moved = halves * turns * self._turn
        repeats = max(_TURN_BYTES // moved, 1)
        function = self._library["copy" if copies else "read"]
        fastest, since = math.inf, time.perf_counter()
        while True:
            start = time.perf_counter()
            function(self._array, self._sums, turns, repeats, cores)
            now = time.perf_counter()
            fastest = min(fastest, now - start)
            if now - since > _TURN_SECONDS:
                return cores * repeats * moved / fastest


def _loop(name: str, cpu: CpuProfile, floats: int, copies: bool) -> tvm.tirx.PrimFunc:
    """Return a loop in which each core sums up its part of `array`, or copies its first half."""
    lanes = cpu.vector_lanes()
    every = T.Ramp(0, 1, lanes)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        array = T.arg("array", T.buffer((T.int64(floats),), "float32"))
        result = T.arg("result", T.buffer((T.int64(cpu.cores * lanes),), "float32"))
        turns, repeats, cores = (T.arg(n, T.int64()) for n in ("turns", "repeats", "cores"))
        with T.parallel(T.int64(0), cores) as core, T.sblock(name):
            T.reads(array[0 : T.int64(floats)])
            T.writes(array[0 : T.int64(floats)], result[0 : T.int64(cpu.cores * lanes)])
            sums = [T.sblock_alloc_buffer((lanes,), "float32") for _ in range(_UNROLLED)]
            for total in sums:
                T.buffer_store(total, T.Broadcast(T.float32(0), lanes), [every])
            part = turns * (_UNROLLED * lanes)
            start = T.bind(core * part * (2 if copies else 1))
            with T.serial(T.int64(0), repeats), T.serial(T.int64(0), turns) as turn:
                at = T.bind(start + turn * (_UNROLLED * lanes))
                for i, total in enumerate(sums):
                    vector = array[T.Ramp(at + i * lanes, T.int64(1), lanes)]
                    if copies:
                        T.buffer_store(
                            array, vector, [T.Ramp(at + part + i * lanes, T.int64(1), lanes)]
                        )
                    else:
                        T.buffer_store(total, total[every] + vector, [every])
            total = functools.reduce(operator.add, (total[every] for total in sums))
            T.buffer_store(result, total, [T.Ramp(core * lanes, T.int64(1), lanes)])
    return builder.get()

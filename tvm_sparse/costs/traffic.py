"""Where bytes are found, and how long a core takes to move them.

A cache still has what was used a while ago if less than its size was touched in between. That
distance decides the level of every access here.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import TypeAlias

from tvm_sparse.cpu.profile import CpuProfile

Hits: TypeAlias = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]

HITS: Hits = (0.6, 1.5), (0.6, 1.5), (0.6, 1.5)
"""Distances, as shares of the sizes of L1, L2 and L3, up to which everything is found there, and
from which on nothing is. Loops over arrays show such a step between two levels. Chains of kernels
begin to miss earlier: with 0.8, rolling buffers of convolutions went out of a simulated L2."""

ROW_HITS: Hits = (0.0, 4.0), (0.1, 1.0), (0.6, 1.5)
"""The same for the time that rows take, which grows with the distance long before they are missed:
some rows of a run are read soon and others late, and other data share their sets. Fitted to 753
measured plans of 66 regions (MobileNets, EfficientNet-B0, YOLOv5s) on a Xeon with 2 MB of L2, where
plans expected to be the fastest became 1.3 % slower than those that are, on average, instead of
5.3 %. L3 was never exceeded."""


@dataclass(frozen=True, slots=True)
class Distance:
    """Bytes touched since some data was used last.

    Attributes
    ----------
    own : float
        By this core.
    all : float
        By all cores.
    """

    own: float
    all: float


class Caches:
    """The caches and the memory of a CPU while all its cores are busy.

    Parameters
    ----------
    cpu : CpuProfile
        Which CPU.
    """

    def __init__(self, cpu: CpuProfile) -> None:
        self.cores = cpu.cores
        self._sizes = cpu.l1_bytes, cpu.l2_bytes, cpu.l3_bytes
        levels = [level.per_core(cpu.cores) for level in cpu.memory_system.levels]
        self.read_seconds = tuple(1 / level.read for level in levels)
        # A copy takes as long as reading the one half and writing the other.
        self.write_seconds = tuple(max(2 / level.copy - 1 / level.read, 0.0) for level in levels)

    def levels(self, distance: Distance, hits: Hits = HITS) -> tuple[float, float, float, float]:
        """Return the shares of accesses that L1, L2, L3 and memory answer."""
        touched = distance.own, distance.own, distance.all
        l1, l2, l3 = map(_found, touched, self._sizes, hits)
        l2 = max(l1, l2)
        l3 = max(l2, l3)
        return l1, l2 - l1, l3 - l2, 1 - l3


class Traffic:
    """What a core moves, and how long it takes.

    Parameters
    ----------
    caches : Caches
        Where it moves from and to.

    Attributes
    ----------
    seconds : float
        Time for all of it.
    moved : list of float
        Bytes from and to L1, L2, L3 and memory.
    """

    def __init__(self, caches: Caches) -> None:
        self._caches = caches
        self.seconds = 0.0
        self.moved = [0.0, 0.0, 0.0, 0.0]

    def read(self, count: float, distance: Distance) -> None:
        """Read `count` bytes of rows that were used `distance` ago."""
        self._move(count, distance, ROW_HITS, self._caches.read_seconds)

    def stream(self, count: float, distance: Distance) -> None:
        """Read `count` bytes from front to end, asked for ahead of their use: weights."""
        self._move(count, distance, HITS, self._caches.read_seconds)

    def write(self, count: float, distance: Distance) -> None:
        """Write `count` bytes of rows that were used `distance` ago."""
        self._move(count, distance, ROW_HITS, self._caches.write_seconds)

    def _move(
        self, count: float, distance: Distance, hits: Hits, seconds: tuple[float, ...]
    ) -> None:
        found = self._caches.levels(distance)
        for level, share in enumerate(found):
            self.moved[level] += count * share
        waiting = found if hits is HITS else self._caches.levels(distance, hits)
        self.seconds += count * sum(map(operator.mul, waiting, seconds))


@functools.cache
def caches(cpu: CpuProfile) -> Caches:
    """Return the caches of a CPU."""
    return Caches(cpu)


def _found(distance: float, size: int, hits: tuple[float, float]) -> float:
    """Return the share of accesses that a cache of `size` bytes answers."""
    all_found, none_found = (share * size for share in hits)
    if distance <= all_found:
        return float(size > 0)
    return max(0.0, (none_found - distance) / (none_found - all_found)) if size else 0.0

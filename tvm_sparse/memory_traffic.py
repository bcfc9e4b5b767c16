"""Where bytes are found, and how long a core takes to move them.

A cache still has what was used a while ago if less than its size was touched in between. That
distance decides the level of every access here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from tvm_sparse.targets import CpuProfile

FULL_HIT, NO_HIT = 0.6, 1.5
"""Distances, as shares of a cache's size, up to which everything is found in it, and from which on
nothing is. Loops over arrays show such a step between two levels. Chains of kernels begin to miss
earlier: with 0.8, rolling buffers of convolutions went out of a simulated L2 cache."""


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

    def levels(self, distance: Distance) -> tuple[float, float, float, float]:
        """Return the shares of accesses that L1, L2, L3 and memory answer."""
        l1 = _hits(distance.own, self._sizes[0])
        l2 = max(_hits(distance.own, self._sizes[1]), l1)
        l3 = max(_hits(distance.all, self._sizes[2]), l2)
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
        """Read `count` bytes that were used `distance` ago."""
        self._move(count, distance, self._caches.read_seconds)

    def write(self, count: float, distance: Distance) -> None:
        """Write `count` bytes that were used `distance` ago."""
        self._move(count, distance, self._caches.write_seconds)

    def _move(self, count: float, distance: Distance, seconds: tuple[float, ...]) -> None:
        for level, share in enumerate(self._caches.levels(distance)):
            if share:
                self.moved[level] += count * share
                self.seconds += count * share * seconds[level]


@functools.cache
def caches(cpu: CpuProfile) -> Caches:
    """Return the caches of a CPU."""
    return Caches(cpu)


def _hits(distance: float, size: int) -> float:
    """Return the share of accesses that a cache of `size` bytes answers."""
    if size == 0:
        return 0.0
    if distance <= FULL_HIT * size:
        return 1.0
    if distance >= NO_HIT * size:
        return 0.0
    return (NO_HIT - distance / size) / (NO_HIT - FULL_HIT)

"""Where bytes are found, and how long a core takes to move them.

A cache still holds data that was used a while ago if fewer bytes than its size were touched in
between. These bytes are the *distance* of an access, which decides the level that answers it.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import TypeAlias

from tvm_sparse.cpu.profile import CpuProfile

Hits: TypeAlias = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]

HITS: Hits = (0.6, 1.5), (0.6, 1.5), (0.6, 1.5)
"""Two distances for each of L1, L2 and L3, as shares of the level's size: up to the first one all
data are found there, and from the second one on none. Measured on a Xeon, with loops over arrays
and with chains of kernels."""

ROW_HITS: Hits = (0.0, 4.0), (0.1, 1.0), (0.6, 1.5)
"""The same shares for the time that rows take. It grows with the distance long before rows leave a
cache, because some rows of a run are read soon and others late, and other data share their sets.
Fitted to measured plans on a Xeon with 2 MB of L2."""


@dataclass(frozen=True, slots=True)
class Distance:
    """Bytes touched since some data were last used.

    Attributes
    ----------
    own : float
        Bytes that this core touched.
    all : float
        Bytes that all cores together touched.
    """

    own: float
    all: float


class Caches:
    """The caches and the memory of a CPU while all its cores are busy.

    Parameters
    ----------
    cpu : CpuProfile
        The processor.
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
    """The bytes that a core moves, and the time that it takes.

    Parameters
    ----------
    caches : Caches
        The caches and the memory between which the bytes are moved.

    Attributes
    ----------
    seconds : float
        Time to move all of the bytes.
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
        """Read `count` bytes from front to end, which are asked for ahead of their use: weights."""
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

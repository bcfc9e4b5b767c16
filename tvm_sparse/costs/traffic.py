"""Where bytes are found, and how long a core takes to move them.

A cache still holds data that was used a while ago if fewer bytes than its size were touched in
between. These bytes are the *distance* of an access, which decides the level that answers it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

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


Bytes: TypeAlias = "float | NDArray[np.float64]"
"""A number of bytes; or an array, with the numbers of many columns."""


@dataclass(frozen=True, slots=True)
class Distance:
    """Bytes touched since some data were last used.

    Attributes
    ----------
    own : float or ndarray
        Bytes that this core touched.
    all : float or ndarray
        Bytes that all cores together touched.
    """

    own: Bytes
    all: Bytes


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

    def levels(self, distance: Distance, hits: Hits = HITS) -> NDArray[np.float64]:
        """Return the shares of accesses that L1, L2, L3 and memory answer, ``[4, ...]``."""
        l1, l2, l3 = self._up_to(distance, hits)
        return np.stack([l1, l2 - l1, l3 - l2, 1 - l3])

    def row_seconds(self, distance: Distance, is_write: bool = False) -> NDArray[np.float64]:
        """Return the seconds that a byte of rows takes."""
        return self._seconds(distance, ROW_HITS, self.write_seconds if is_write else None)

    def weight_seconds(self, distance: Distance) -> NDArray[np.float64]:
        """Return the seconds that a byte of weights takes."""
        return self._seconds(distance, HITS)

    def _seconds(
        self, distance: Distance, hits: Hits, seconds: Sequence[float] | None = None
    ) -> NDArray[np.float64]:
        *steps, memory = seconds or self.read_seconds
        total: NDArray[np.float64] | float = memory
        for share, near, far in zip(
            self._up_to(distance, hits), steps, [*steps[1:], memory], strict=True
        ):
            total = total + share * (near - far)
        return np.asarray(total)

    def _up_to(self, distance: Distance, hits: Hits) -> list[NDArray[np.float64]]:
        """Return the shares of accesses that are answered by L1, by L2 at most, by L3 at most."""
        touched = distance.own, distance.own, distance.all
        l1, l2, l3 = map(_found, touched, self._sizes, hits)
        l2 = np.maximum(l1, l2)
        return [l1, l2, np.maximum(l2, l3)]


@dataclass(frozen=True, slots=True)
class Moved:
    """What the accesses of a `Traffic` add up to.

    Attributes
    ----------
    seconds : ndarray
        Time to move all of the bytes, of each column.
    bytes : ndarray
        Bytes from and to L1, L2, L3 and memory, ``[4, columns]``.
    """

    seconds: NDArray[np.float64]
    bytes: NDArray[np.float64]


class Traffic:
    """The accesses of a core; `moved` tells what they cost."""

    def __init__(self) -> None:
        self.counts: list[Bytes] = []
        self.distances: list[Distance] = []
        self.are_rows: list[bool] = []
        self.are_writes: list[bool] = []

    def read(self, count: Bytes, distance: Distance) -> None:
        """Read `count` bytes of rows that were used `distance` ago."""
        self._add(count, distance)

    def stream(self, count: Bytes, distance: Distance) -> None:
        """Read `count` bytes from front to end, which are asked for ahead of their use: weights."""
        self._add(count, distance, is_row=False)

    def write(self, count: Bytes, distance: Distance) -> None:
        """Write `count` bytes of rows that were used `distance` ago."""
        self._add(count, distance, is_write=True)

    def _add(
        self, count: Bytes, distance: Distance, is_row: bool = True, is_write: bool = False
    ) -> None:
        self.counts.append(count)
        self.distances.append(distance)
        self.are_rows.append(is_row)
        self.are_writes.append(is_write)


def moved(traffics: Sequence[Traffic], caches: Caches, columns: int = 1) -> list[Moved]:
    """Return what each of some traffics costs; one call counts them all together.

    Parameters
    ----------
    traffics : sequence of Traffic
        Each has one access or more.
    caches : Caches
        The caches and the memory between which the bytes are moved.
    columns : int
        The length of the arrays in the traffics.
    """
    counts = _rows([count for traffic in traffics for count in traffic.counts], columns)
    distances = [distance for traffic in traffics for distance in traffic.distances]
    own = _rows([distance.own for distance in distances], columns)
    everything = _rows([distance.all for distance in distances], columns)
    are_rows = np.array([is_row for traffic in traffics for is_row in traffic.are_rows])
    are_writes = np.array([is_write for traffic in traffics for is_write in traffic.are_writes])
    found = caches.levels(Distance(own, everything))
    waiting = found.copy()
    waiting[:, are_rows] = caches.levels(Distance(own[are_rows], everything[are_rows]), ROW_HITS)
    writes, reads = np.array([caches.write_seconds, caches.read_seconds])[:, :, None]
    rates = np.where(are_writes, writes, reads)[..., None]
    seconds = counts * functools.reduce(np.add, waiting * rates)
    first = [0, *itertools.accumulate(len(traffic.counts) for traffic in traffics)][:-1]
    times = np.add.reduceat(seconds, first, axis=0)
    sizes = np.add.reduceat(counts * found, first, axis=1)
    return [Moved(times[i], sizes[:, i]) for i in range(len(traffics))]


@functools.cache
def caches(cpu: CpuProfile) -> Caches:
    """Return the caches of a CPU."""
    return Caches(cpu)


def _rows(numbers: Sequence[Bytes], columns: int) -> NDArray[np.float64]:
    """Return numbers and arrays as the rows of an array ``[numbers, columns]``."""
    rows = np.empty((len(numbers), columns))
    for row, number in zip(rows, numbers, strict=True):
        row[:] = number
    return rows


def _found(distance: Bytes, size: int, hits: tuple[float, float]) -> NDArray[np.float64]:
    """Return the share of accesses that a cache of `size` bytes answers."""
    if not size:
        return np.zeros_like(distance, dtype=np.float64)
    all_found, none_found = (share * size for share in hits)
    share = (none_found - np.asarray(distance)) / (none_found - all_found)
    return np.minimum(np.maximum(share, 0.0), 1.0)

"""How fast a processor computes, and how fast its caches and memory deliver.

All bandwidths are in bytes a second, sustained by loops with vector loads. `estimate` derives them
from a processor's vectors, clock and memory; `tvm-sparse targets --measure` measures them.
"""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("L1", "L2", "L3", "memory")
"""Names of the levels, nearest first."""


@dataclass(frozen=True)
class Bandwidth:
    """The bandwidth of one level, in bytes a second.

    Attributes
    ----------
    read : float
        The rate of one core that reads while all others are idle.
    copy : float
        The rate of one core that copies while all others are idle: bytes read and bytes written.
    shared : float, optional
        The most that all cores together read; None if every core has this level for itself.
    """

    read: float
    copy: float
    shared: float | None = None

    def per_core(self, threads: int) -> Bandwidth:
        """Return the bandwidth of each of `threads` cores when all of them read or copy."""
        if self.shared is None:
            return self
        share = min(1.0, self.shared / threads / self.read)
        return Bandwidth(self.read * share, self.copy * share)


@dataclass(frozen=True)
class MemorySystem:
    """Speed of a core, and of the caches and the memory that feed it.

    Attributes
    ----------
    clock_hz : float
        Cycles a second as the cost models count them, with two vector multiply-adds in each. The
        figure of a core with more or fewer multipliers is proportionally higher or lower.
    l1, l2, l3, memory : Bandwidth
        Bandwidth of each level; where a processor has no L3, `l3` is that of the memory.
    """

    clock_hz: float
    l1: Bandwidth
    l2: Bandwidth
    l3: Bandwidth
    memory: Bandwidth

    @property
    def levels(self) -> tuple[Bandwidth, Bandwidth, Bandwidth, Bandwidth]:
        """The four levels in the order of `LEVELS`."""
        return self.l1, self.l2, self.l3, self.memory


# Measured on one core of a Xeon with AVX-512 at 3.3 GHz, and taken over for all other processors.
# Two cores got twice as much of L3 and memory as one.
_L1_READ, _L1_COPY = 1.45, 2.0
"""Vectors a cycle that L1 reads or copies; the processor's limit is 2."""

_L2_READ, _L2_COPY = 0.77, 0.44
"""Vectors a cycle that L2 reads or copies."""

_L3_BYTES = 9.0
"""Bytes a cycle that L3 delivers to a core."""

_CORE_MEMORY = 15e9
"""Bytes a second that the memory delivers to a core."""

_MEMORY_SHARE = 0.7
"""Share of the memory's peak rate that loops sustain; STREAM (J. McCalpin) gives 0.6 to 0.8."""


def estimate(
    clock_ghz: float,
    memory_peak: float,
    vector_bits: int,
    cores: int,
    has_l3: bool,
    multiply_adds: float = 2,
    loads: float = 2,
) -> MemorySystem:
    """Return the memory system that a processor presumably has.

    Parameters
    ----------
    clock_ghz : float
        Clock under vector load, in GHz.
    memory_peak : float
        Peak rate of the memory, in GB/s.
    vector_bits : int
        Bits of a vector register.
    cores : int
        Cores that share L3 and memory.
    has_l3 : bool
        Whether there is a cache between L2 and memory.
    multiply_adds, loads : float
        Vector multiply-adds, and vector loads, that a core starts in a cycle.
    """
    clock, vector = clock_ghz * 1e9, vector_bits / 8
    l1_clock = clock * loads / 2
    l1 = Bandwidth(_L1_READ * vector * l1_clock, _L1_COPY * vector * l1_clock)
    l2 = Bandwidth(min(_L2_READ * vector * clock, l1.read), min(_L2_COPY * vector * clock, l1.copy))
    line = _L3_BYTES * clock
    l3 = Bandwidth(min(line, l2.read), min(line, l2.copy), cores * min(line, l2.read))
    all_memory = _MEMORY_SHARE * memory_peak * 1e9
    one_memory = min(_CORE_MEMORY, all_memory, l3.copy, l3.read)
    memory = Bandwidth(one_memory, one_memory, all_memory)
    return MemorySystem(
        clock_hz=clock * multiply_adds / 2,
        l1=l1,
        l2=l2,
        l3=l3 if has_l3 else memory,
        memory=memory,
    )

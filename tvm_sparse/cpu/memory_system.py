"""How fast a processor computes and how fast its caches and memory deliver.

All bandwidths are in bytes a second, sustained by loops with vector loads. `estimate` derives them
from a processor's vectors, clock and memory; `tvm-sparse targets --measure` measures them.
"""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("L1", "L2", "L3", "memory")
"""Names of the levels, nearest first."""


@dataclass(frozen=True)
class Bandwidth:
    """What one level delivers, in bytes a second.

    Attributes
    ----------
    read : float
        To one core, alone, that only reads.
    copy : float
        To one core, alone, that writes as much as it reads: the sum of both.
    shared : float, optional
        The most that all cores together read; None if every core has a level of its own.
    """

    read: float
    copy: float
    shared: float | None = None

    def per_core(self, threads: int) -> Bandwidth:
        """Return what each of `threads` cores gets when all of them pull."""
        if self.shared is None:
            return self
        share = min(1.0, self.shared / threads / self.read)
        return Bandwidth(self.read * share, self.copy * share)


@dataclass(frozen=True)
class MemorySystem:
    """Speed of a core and of what feeds it.

    Attributes
    ----------
    clock_hz : float
        Cycles a second as the cost models count them: two vector multiply-adds in each. A core with
        more or fewer multipliers has a proportionally higher or lower figure.
    l1, l2, l3, memory : Bandwidth
        Of the levels; where a processor has no L3, that of memory again.
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


# Per name: clock in GHz under vector load, and peak of the memory in GB/s (channels, transfers
# and width; of a server, the share of a common small instance). Those of x86 are from the vendors,
# those of ARM boards from the sources that `tvm_sparse.cpu.processors` names; not confirmed is the
# memory of the rpi3 (LPDDR2-900, 32 bits), the rpi4 (LPDDR4-3200, 32 bits: Raspberry Pi's
# documentation of the BCM2711 says 2400), the imx8 (LPDDR4-4000, 32 bits), the M1 and the servers.
_KNOWN = {
    "haswell": (3.4, 25.6),
    "skylake": (3.5, 34.1),
    "znver2": (3.6, 51.2),
    "znver3": (3.8, 51.2),
    "znver4": (4.5, 83.2),
    "skylake-avx512": (2.6, 42.7),
    "cascadelake": (2.8, 46.9),
    "icelake-server": (2.9, 51.2),
    "sapphirerapids": (3.0, 76.8),
    "rpi3": (1.2, 3.6),
    "rpizero2w": (1.0, 3.6),
    "rpi4": (1.5, 12.8),
    "rpi5": (2.4, 17.1),
    "jetson-orin": (1.5, 68.0),
    "imx8": (1.8, 16.0),
    "graviton2": (2.5, 51.2),
    "altra": (3.0, 51.2),
    "graviton3": (2.6, 76.8),
    "apple-m1": (3.2, 68.2),
}
_UNKNOWN = (2.5, 40.0)

# Measured on one core of a Xeon with AVX-512 at 3.3 GHz, and taken over for the others: vectors a
# cycle of L1 (whose limit is 2) and L2, bytes a cycle of an L3, bytes a second of the memory. Two
# cores got twice as much of L3 and memory as one.
_L1_READ, _L1_COPY = 1.45, 2.0
_L2_READ, _L2_COPY = 0.77, 0.44
_L3_BYTES = 9.0
_CORE_MEMORY = 15e9

_MEMORY_SHARE = 0.7
"""Of the memory's peak that loops sustain; 0.6 to 0.8 is common (STREAM, J. McCalpin)."""


def estimate(
    name: str,
    vector_bits: int,
    cores: int,
    has_l3: bool,
    multiply_adds: float = 2,
    loads: float = 2,
) -> MemorySystem:
    """Return the memory system that a processor presumably has.

    Parameters
    ----------
    name : str
        Of the profile, which tells clock and memory if it is known.
    vector_bits, cores : int
        Of the profile.
    has_l3 : bool
        Whether there is a cache between L2 and memory.
    multiply_adds, loads : float
        Of vectors, that a core starts in a cycle.
    """
    gigahertz, peak = _KNOWN.get(name, _UNKNOWN)
    clock, vector = gigahertz * 1e9, vector_bits / 8
    l1_clock = clock * loads / 2
    l1 = Bandwidth(_L1_READ * vector * l1_clock, _L1_COPY * vector * l1_clock)
    l2 = Bandwidth(min(_L2_READ * vector * clock, l1.read), min(_L2_COPY * vector * clock, l1.copy))
    line = _L3_BYTES * clock
    l3 = Bandwidth(min(line, l2.read), min(line, l2.copy), cores * min(line, l2.read))
    all_memory = _MEMORY_SHARE * peak * 1e9
    one_memory = min(_CORE_MEMORY, all_memory, l3.copy, l3.read)
    memory = Bandwidth(one_memory, one_memory, all_memory)
    return MemorySystem(
        clock_hz=clock * multiply_adds / 2,
        l1=l1,
        l2=l2,
        l3=l3 if has_l3 else memory,
        memory=memory,
    )

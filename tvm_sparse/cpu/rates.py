"""Rates of a core, the size of a cache line, and the start of a parallel loop.

Every model of costs takes these figures from here; each was measured once. Rates count vectors, so
that an element type of half the size has twice the elements a cycle.
"""

from __future__ import annotations

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType

FMA_PER_CYCLE = 2
"""Vector multiply-adds a cycle, in the cycles of `MemorySystem.clock_hz`, on every processor."""

LOADS_PER_CYCLE = 1.6
"""Vectors a cycle that a loop loads from L1; measured on a Xeon, whose limit is 2. For any other
processor, `loads_per_cycle` gives the figure."""

STORES_PER_CYCLE = 1.0
"""Vectors a cycle that a loop stores to L1; measured on a Xeon."""

OPERATIONS_PER_CYCLE = 2.0
"""Vector additions, multiplications or comparisons a cycle; two that a multiply-add joins count as
one."""

CACHE_LINE_BYTES = 64
"""Bytes of a cache line, on every processor that we know."""

L1_SETS = 64
"""Sets of an L1 cache that finds the set of a line before it translates the line's address: as many
as a page of 4 KB has lines."""

# The start of a parallel loop: its whole cost in a network, its cost alone, and the work that takes
# as long. The figures were measured in different surroundings, so they do not follow from each
# other.

LAUNCH_SECONDS = 5e-6
"""Seconds to call a kernel, to start its parallel loop, and to wait for its last thread, in a
network; measured on two cores of a Xeon, where each kernel begins with cold code."""

HAND_OVER_SECONDS = 30e-6
"""Seconds to hand a call to a thread of an engine and to get its result; measured on two cores of a
Xeon as 15 us while one call follows another, and 70 us if the thread sleeps."""

LAUNCH_CYCLES = 5000
"""Cycles to start a parallel loop whose code is in the cache; measured on a Xeon as 1 to 2 us."""

PARALLEL_ELEMENTS = 1 << 14
"""float32 values that one core copies in about the time in which a parallel loop starts."""

PARALLEL_ITERATIONS = 1 << 15
"""Iterations of a generated loop nest that one core runs in about `LAUNCH_SECONDS`."""


def line_elements(dtype: DType) -> int:
    """Return the elements of a cache line."""
    return CACHE_LINE_BYTES // dtype.bytes


def loads_per_cycle(cpu: CpuProfile) -> float:
    """Return the vectors that L1 delivers in the time of `FMA_PER_CYCLE` multiply-adds."""
    return LOADS_PER_CYCLE * cpu.loads_per_multiply_add

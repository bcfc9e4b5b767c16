"""What a core does in a cycle, and the constants of caches that several models share."""

from __future__ import annotations

from tvm_sparse.cpu.profile import CpuProfile

FMA_PER_CYCLE = 2


CACHE_LINE_FLOATS = 16

LOADS_PER_CYCLE = 1.6
"""Of vectors that lie in L1; the processor's limit is 2. Others: `loads_per_cycle`."""


def loads_per_cycle(cpu: CpuProfile) -> float:
    """Return the vectors that L1 delivers in the time of `FMA_PER_CYCLE` multiply-adds."""
    return LOADS_PER_CYCLE * cpu.loads_per_multiply_add

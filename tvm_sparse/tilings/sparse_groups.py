"""What the inner loops of the sparse kernels cost, of linear layers and of convolutions."""

from __future__ import annotations

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import FMA_PER_CYCLE, loads_per_cycle
from tvm_sparse.dtypes import DType

GROUP_CYCLES = 30
"""Cycles that a group takes in a K block besides its multiply-adds: pointers, partial sums, and
the exit of the loop. Measured on a Xeon with AVX-512."""


OFFSETS_PER_LOAD = 4
"""Channels of a group whose offsets come with one load in float16, if they divide the group."""


def offsets_per_load(group: int, dtype: DType) -> int:
    """Return the channels of a group whose offsets come with one load."""
    joins = dtype == DType.FLOAT16 and group % OFFSETS_PER_LOAD == 0
    return OFFSETS_PER_LOAD if joins else 1


def nonzero_cycles(
    vectors: int,
    pieces: int,
    lines_per_load: float,
    cpu: CpuProfile,
    dtype: DType,
    group: int = 1,
) -> float:
    """Return the cycles of a non-zero: its loads or its multiply-adds, whichever take longer.

    Parameters
    ----------
    vectors : int
        Vectors of inputs that the weight is multiplied by.
    pieces : int
        Visits of the weight, which load its value and its offset; on ARM a load brings the values
        or the offsets of several weights.
    lines_per_load : float
        Cache lines that a load of inputs touches on average.
    cpu : CpuProfile
        The processor.
    dtype : DType
        Type of inputs and weights.
    group : int
        Channels of a group.
    """
    together = cpu.weights_per_load(dtype)
    offsets = together if together > 1 else offsets_per_load(group, dtype)
    of_weights = 1 / together + 1 / offsets
    loads = pieces * of_weights + vectors * lines_per_load
    return max(loads / loads_per_cycle(cpu), vectors / FMA_PER_CYCLE)

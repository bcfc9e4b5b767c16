"""What the registers of a core hold, and what the inner loop of a dense kernel costs in them."""

from __future__ import annotations

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import FMA_PER_CYCLE, loads_per_cycle
from tvm_sparse.dtypes import DType

MOST_ROWS = 8
"""Most rows of a tile; more rows would leave registers for one output channel only."""

LOOP_CYCLES = 1
"""Cycles that a step of a dense kernel's inner loop takes besides loads and multiply-adds."""

FMA_LATENCY = 4
"""Cycles until an accumulator can take the next multiply-add, from the vendors' tables."""


def fits_registers(channels: int, vectors: int, cpu: CpuProfile, dtype: DType) -> bool:
    """Return whether the registers hold a dense tile: sums, activations and weights.

    A register holds one weight in all lanes; on ARM it holds a whole vector of weights, and then
    compilers load the weights of all channels at once.
    """
    held = cpu.weights_per_load(dtype)
    weights = 1 if held == 1 else -(-channels // held)
    return channels * vectors + vectors + weights <= cpu.vector_registers


def most_channels(vectors: int, cpu: CpuProfile, dtype: DType) -> int:
    """Return the most output channels of a dense tile that is `vectors` vectors wide."""
    return max(c for c in range(1, cpu.vector_registers) if fits_registers(c, vectors, cpu, dtype))


def sparse_accumulators(cpu: CpuProfile) -> int:
    """Return the accumulators of a sparse kernel: half to three quarters of the registers.

    They are enough to hide the latency of a multiply-add, and few enough that the channels of a
    group have nearly as many non-zeros each.
    """
    return 16 if cpu.vector_registers >= 32 else 12


def accumulates(accumulators: int, cpu: CpuProfile) -> bool:
    """Return whether accumulators can hide the latency of a multiply-add and stay in registers."""
    return cpu.vector_registers // 8 <= accumulators <= cpu.vector_registers - 2


def dense_step_cycles(
    channels: int, sources: int, lines_per_load: float, cpu: CpuProfile, dtype: DType
) -> float:
    """Return the cycles of a step of a dense kernel's inner loop.

    A step multiplies `sources` vectors of inputs by a weight of each of `channels` channels.

    Parameters
    ----------
    channels, sources : int
        Output channels, and vectors of inputs, of the register tile.
    lines_per_load : float
        Cache lines that a load of inputs touches on average.
    cpu : CpuProfile
        The processor.
    dtype : DType
        Type of inputs and weights.
    """
    loads = -(-channels // cpu.weights_per_load(dtype)) + sources * lines_per_load
    multiply_adds = channels * sources / FMA_PER_CYCLE
    return LOOP_CYCLES + max(multiply_adds, loads / loads_per_cycle(cpu), FMA_LATENCY)

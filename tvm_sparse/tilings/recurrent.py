"""How the step of a recurrent layer is cut into tiles of hidden units, and into jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm_sparse.cpu.integers import dot_products
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import FMA_PER_CYCLE, loads_per_cycle
from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.formats.recurrent_columns import MOST_HIDDEN, ColumnSparse
from tvm_sparse.formats.windows import MOST_VECTORS, WINDOWS, WindowSparse
from tvm_sparse.sizes.recurrent import Recurrent
from tvm_sparse.tilings.integers import DOT_SHARE, dots_of

DENSE_ACCUMULATORS = 8
"""Sums that hide the latency of a multiply-add: 4 cycles, of which 2 begin in each."""

L2_BYTES = 32
"""Bytes a cycle of a weight that a core draws from its L2; measured on an EPYC with AVX-512, where
a step of an LSTM with 256 hidden units takes 11.7 us."""

PERMUTATION_CYCLES = 1.0
"""Cycles of a permutation, of which a sparse product needs one a vector and sequence; measured on
an EPYC, with AVX-512 and with AVX2."""

WAIT_CYCLES = 3000
"""Cycles in which all threads wait for each other; measured on two cores of an EPYC as 0.5 to
0.8 us."""

L2_SHARE = 0.75
"""Share of an L2 that a weight may fill; states and the inputs of steps take the rest."""


@dataclass(frozen=True)
class RecurrentTiling:
    """How a step is cut.

    Attributes
    ----------
    width : int
        Hidden units of a vector.
    vectors : tuple of int
        Vectors of hidden units of a tile, for each section of the layer.
    jobs : int
        Jobs of a direction; with more than one, all threads wait for each other in every step.
    groups : int
        Groups of sequences of a direction, which run through all steps without a wait.
    """

    width: int
    vectors: tuple[int, ...]
    jobs: int = 1
    groups: int = 1

    def units(self, section: int) -> int:
        """Return the hidden units of a tile."""
        return self.width * self.vectors[section]

    def tiles(self, section: int, hidden: int) -> int:
        """Return the tiles of a direction; the last one overlaps the one before it."""
        return -(-hidden // self.units(section))


def has_word_kernel(problem: Recurrent, cpu: CpuProfile) -> bool:
    """Return whether dot products of words compute the product of a layer that rounds states."""
    dots, width = dot_products(cpu), dense_width(problem, cpu)
    return problem.rounds and dots is not None and dots.lanes == width


def dense_width(problem: Recurrent, cpu: CpuProfile) -> int:
    """Return the hidden units of a vector of a dense product."""
    return min(cpu.vector_lanes(ACTIVATIONS), 1 << (problem.hidden.bit_length() - 1))


def recurrent_tiling(problem: Recurrent, cpu: CpuProfile) -> RecurrentTiling:
    """Return the tiling for a dense recurrent weight."""
    width = dense_width(problem, cpu)
    rows = min(problem.batch, 2)
    vectors = tuple(
        max(min(DENSE_ACCUMULATORS // (len(gates) * rows), problem.hidden // width), 1)
        for gates in problem.sections
    )
    weight_bytes = _dense_bytes(problem, cpu)

    def cycles(batch: int) -> float:
        return dense_cycles(replace(problem, batch=batch), width, cpu)

    return shared(RecurrentTiling(width, vectors), problem, cycles, weight_bytes, cpu)


def sparse_recurrent_tiling(problem: Recurrent, cpu: CpuProfile) -> RecurrentTiling | str:
    """Return the tiling for a sparse recurrent weight on one core, or why there is no kernel.

    The kernel of x86 needs a permutation whose places are in a vector, that of ARM loads every
    factor by itself.
    """
    width = cpu.vector_lanes(ACTIVATIONS)
    if sparse_format(cpu) is None:
        return "the sparse kernel of recurrent weights needs AVX-512, AVX2 or NEON"
    if problem.hidden < width:
        return f"the sparse kernel of recurrent weights needs {width} hidden units"
    if problem.hidden > MOST_HIDDEN:
        return f"the sparse kernel of recurrent weights takes up to {MOST_HIDDEN} hidden units"
    vectors = tuple(
        max(min(MOST_VECTORS // len(gates), problem.hidden // width), 1)
        for gates in problem.sections
    )
    return RecurrentTiling(width, vectors)


def sparse_format(cpu: CpuProfile) -> type[WindowSparse | ColumnSparse] | None:
    """Return how a sparse recurrent weight is packed for a processor, or None without a kernel."""
    if cpu.architecture == "x86_64" and cpu.vector_lanes(ACTIVATIONS) in WINDOWS:
        return WindowSparse
    return ColumnSparse if cpu.architecture == "aarch64" else None


def dense_cycles(problem: Recurrent, width: int, cpu: CpuProfile) -> float:
    """Return the cycles of a dense product of a step and direction on one core."""
    weights, weight_bytes = problem.gates * problem.hidden**2, _dense_bytes(problem, cpu)
    work = weights / width * problem.batch / FMA_PER_CYCLE
    if has_word_kernel(problem, cpu):
        dots = dots_of(cpu)
        work /= dots.per_word * DOT_SHARE / (1 if dots.adds else 2)
    return max(weight_bytes / bytes_per_cycle(weight_bytes, cpu), work)


def _dense_bytes(problem: Recurrent, cpu: CpuProfile) -> float:
    """Return the bytes of the packed dense weight of a direction."""
    weights = problem.gates * problem.hidden**2
    if has_word_kernel(problem, cpu):
        return weights * 4 / dots_of(cpu).per_word
    return weights * ACTIVATIONS.bytes


def sparse_cycles(
    problem: Recurrent, vectors: float, weight_bytes: float, cpu: CpuProfile
) -> float:
    """Return the cycles of a sparse product of a step and direction on one core.

    Parameters
    ----------
    problem : Recurrent
        The layer.
    vectors : float
        Vectors of packed values of a direction.
    weight_bytes : float
        Bytes of the packed weight of a direction.
    cpu : CpuProfile
        The processor.
    """
    if sparse_format(cpu) is WindowSparse:
        work = problem.batch * PERMUTATION_CYCLES
    else:
        # Every sequence loads its factors; the values and their columns are two loads more.
        loads = problem.batch * cpu.vector_lanes(ACTIVATIONS) + 2
        work = loads / loads_per_cycle(cpu)
    return max(weight_bytes / bytes_per_cycle(weight_bytes, cpu), vectors * work)


def bytes_per_cycle(weight_bytes: float, cpu: CpuProfile) -> float:
    """Return the bytes that a core draws in a cycle from a weight of so many bytes.

    A weight that an L2 does not hold comes from the L3 or from the memory in every step.
    """
    memory = cpu.memory_system
    if weight_bytes <= cpu.l2_bytes * L2_SHARE:
        level = memory.l2
    else:
        level = memory.l3 if weight_bytes <= cpu.l3_bytes else memory.memory
    return min(L2_BYTES, level.per_core(cpu.cores).read / memory.clock_hz)


def shared(
    tiling: RecurrentTiling,
    problem: Recurrent,
    cycles: Callable[[int], float],
    weight_bytes: float,
    cpu: CpuProfile,
) -> RecurrentTiling:
    """Return `tiling` with the jobs or groups that share a direction's work among the cores.

    Parameters
    ----------
    tiling : RecurrentTiling
        The tiling on one core.
    problem : Recurrent
        The layer.
    cycles : callable
        Returns the cycles of a step and direction on one core for a number of sequences.
    weight_bytes : float
        Bytes of the packed weight of a direction. Groups read all of it, each core from its L2.
    cpu : CpuProfile
        The processor.
    """
    ways = max(cpu.cores // problem.directions, 1)
    waits = len(problem.sections) * WAIT_CYCLES
    costs = {tiling: cycles(problem.batch)}
    if ways > 1:
        costs[replace(tiling, jobs=ways)] = cycles(problem.batch) / ways + waits
    groups = max(n for n in range(1, ways + 1) if problem.batch % n == 0)
    # A range is that of all sequences.
    if groups > 1 and not problem.rounds and weight_bytes <= cpu.l2_bytes * L2_SHARE:
        costs[replace(tiling, groups=groups)] = cycles(problem.batch // groups)
    return min(costs, key=costs.__getitem__)

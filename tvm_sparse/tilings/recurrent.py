"""How the step of a recurrent layer is cut into tiles of hidden units, and into jobs."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import FMA_PER_CYCLE, LAUNCH_CYCLES
from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.formats.recurrent import MOST_VECTORS, WINDOW
from tvm_sparse.sizes.recurrent import Recurrent

DENSE_ACCUMULATORS = 8
"""Sums that hide the latency of a multiply-add: 4 cycles, of which 2 begin in each."""

L2_CYCLES = 2
"""Cycles in which a core draws a vector of weights from its L2; measured on an EPYC with AVX-512:
a step of an LSTM with 256 hidden units takes 11.7 us."""

STEP_CYCLES = 2.5
"""Cycles in which a core draws a vector of a packed sparse weight, and its part of the places,
from its L2: an estimate, `L2_CYCLES` for 5 bytes in place of 4."""

PERMUTATION_CYCLES = 1.0
"""Cycles of a permutation of two vectors, of which a sparse product needs one a vector and
sequence: an estimate, one in each cycle."""


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
    """

    width: int
    vectors: tuple[int, ...]
    jobs: int

    def units(self, section: int) -> int:
        """Return the hidden units of a tile."""
        return self.width * self.vectors[section]

    def tiles(self, section: int, hidden: int) -> int:
        """Return the tiles of a direction; the last one overlaps the one before it."""
        return -(-hidden // self.units(section))


def recurrent_tiling(problem: Recurrent, cpu: CpuProfile) -> RecurrentTiling:
    """Return the tiling for a dense recurrent weight."""
    width = min(cpu.vector_lanes(ACTIVATIONS), 1 << (problem.hidden.bit_length() - 1))
    rows = min(problem.batch, 2)
    vectors = tuple(
        max(min(DENSE_ACCUMULATORS // (len(gates) * rows), problem.hidden // width), 1)
        for gates in problem.sections
    )
    cycles = dense_cycles(problem, width)
    return RecurrentTiling(width, vectors, jobs_of(problem, cycles, cpu))


def sparse_recurrent_tiling(problem: Recurrent, cpu: CpuProfile) -> RecurrentTiling | None:
    """Return the tiling for a sparse recurrent weight, or None if there is no kernel for it.

    The kernel needs the permutation of two vectors that AVX-512 has.
    """
    width = cpu.vector_lanes(ACTIVATIONS)
    if cpu.architecture != "x86_64" or 2 * width != WINDOW or problem.hidden < width:
        return None
    vectors = tuple(
        max(min(MOST_VECTORS // len(gates), problem.hidden // width), 1)
        for gates in problem.sections
    )
    return RecurrentTiling(width, vectors, 1)


def dense_cycles(problem: Recurrent, width: int) -> float:
    """Return the cycles of a dense product of a step and direction on one core."""
    weights = problem.gates * problem.hidden**2
    return weights / width * max(L2_CYCLES, problem.batch / FMA_PER_CYCLE)


def sparse_cycles(problem: Recurrent, vectors: float) -> float:
    """Return the cycles of a product with so many packed vectors for each direction."""
    return vectors * max(STEP_CYCLES, problem.batch * PERMUTATION_CYCLES)


def jobs_of(problem: Recurrent, cycles: float, cpu: CpuProfile) -> int:
    """Return the jobs of a direction for a step of so many cycles on one core."""
    jobs = max(cpu.cores // problem.directions, 1)
    waits = len(problem.sections) * LAUNCH_CYCLES
    return jobs if cycles * (1 - 1 / jobs) > waits else 1

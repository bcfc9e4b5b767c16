"""Linear layers on a few rows with a weight of four or eight bits: how they are cut, and the cost.

The packed form of a weight does not depend on the rows that meet it, so that functions on one, four
and sixteen rows share one copy of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import LAUNCH_CYCLES
from tvm_sparse.cpu.row_dots import RowDots, row_dots
from tvm_sparse.formats.groups import COLUMNS, GROUP
from tvm_sparse.sizes.block_linear import MOST_ROWS, PLANES, BlockLinear
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.jobs import waiting
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.row_linear import delivery_cycles

SUMS = {16: 8, 32: 16}
"""Vectors of integer sums, by the vector registers of a processor. The others hold the codes of an
octet of columns, their activations and constants."""

OPERATIONS = 4.0
"""Operations on vectors of integers that a core does in a cycle; of Zen 3."""

OF_A_BLOCK = 8
"""Operations by which a vector of products becomes part of the result of a row, once a block."""


@dataclass(frozen=True)
class BlockRowTiling:
    """How a layer is cut.

    Attributes
    ----------
    rows : int
        Most rows that are computed together.
    jobs : int
        Equal parts of the groups for different threads.
    """

    rows: int
    jobs: int


class BlockRowLinearFamily(Family[BlockLinear, BlockRowTiling]):
    """Dense weights of four or eight bits."""

    name = "block_row_linear"
    sizes, tiling = BlockLinear, BlockRowTiling

    def refusal_of_sizes(self, problem: BlockLinear, cpu: CpuProfile) -> str:
        """Return why the kernel cannot compute a layer; an empty string if it can."""
        if row_dots(cpu) is None:
            return "the kernels of few bits need AVX2, VNNI or NEON's dot products"
        if problem.rows > MOST_ROWS:
            return f"the kernels of few bits take up to {MOST_ROWS} rows, not {problem.rows}"
        if problem.block % COLUMNS:
            return f"the kernels of few bits take blocks of a multiple of {COLUMNS} channels"
        return ""

    def default(self, layer: Layer[BlockLinear], cpu: CpuProfile) -> BlockRowTiling:
        """Return the tile of as many rows as the registers hold sums for."""
        problem = layer.problem
        most = max(SUMS[cpu.vector_registers] // _sums_of_row(problem, _dots(cpu)), 1)
        tiles = -(-problem.rows // most)
        tiling = BlockRowTiling(-(-problem.rows // tiles), 1)
        cycles = self.cycles(layer, tiling, replace(cpu, cores=1))
        pays = cycles * (1 - 1 / cpu.cores) > LAUNCH_CYCLES
        return replace(tiling, jobs=cpu.cores if pays else 1)

    def tilings(self, layer: Layer[BlockLinear], cpu: CpuProfile) -> Iterator[BlockRowTiling]:
        """Yield tiles of one row and more, for one thread and for all."""
        default = self.default(layer, cpu)
        for rows in range(1, default.rows + 1):
            for jobs in (1, cpu.cores):
                yield BlockRowTiling(rows, jobs)

    def cycles(self, layer: Layer[BlockLinear], tiling: BlockRowTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        They are those of the instructions, or of the delivery of the weight, whichever takes
        longer.
        """
        problem, dots = layer.problem, _dots(cpu)
        groups, columns = -(-problem.n // GROUP), problem.blocks * problem.block
        vectors = groups * columns * GROUP * problem.bits / 8 / dots.vector_bytes
        halves, adds = (2 if problem.bits == 4 or dots.sum_bits == 16 else 1), dots.sum_bits == 16
        tiles = -(-problem.rows // tiling.rows)
        products = halves * (1 + adds) * problem.rows * PLANES[problem.activations]
        blocks = groups * problem.blocks * (GROUP // dots.lanes) * problem.rows * OF_A_BLOCK
        work = (vectors * (tiles * 2 * halves + products) + blocks) / OPERATIONS
        size = problem.n * columns * (problem.bits / 8 + 2 / problem.block)
        return max(work, delivery_cycles(size, cpu)) * waiting(tiling.jobs, cpu)

    def register_tile(self, tiling: BlockRowTiling) -> tuple[object, ...]:
        """Return the rows."""
        return (tiling.rows,)


BLOCK_ROW_LINEAR_FAMILY = BlockRowLinearFamily()


def _sums_of_row(problem: BlockLinear, dots: RowDots) -> int:
    """Return the vectors of sums that a row needs."""
    halves = 2 if problem.bits == 8 and dots.sum_bits == 16 else 1
    return GROUP // dots.lanes * PLANES[problem.activations] * halves


def _dots(cpu: CpuProfile) -> RowDots:
    dots = row_dots(cpu)
    if dots is None:
        raise ValueError(f"{cpu.name} has no products of bytes")
    return dots

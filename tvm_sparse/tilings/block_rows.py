"""Linear layers on a few rows with a weight of few bits: how they are cut, and what that costs.

The packed form of a weight does not depend on the rows that meet it, so that functions on one, four
and sixteen rows share one copy of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import LAUNCH_CYCLES
from tvm_sparse.cpu.row_dots import RowDots, expanding_dots, row_dots, shuffled_dots
from tvm_sparse.formats import bitmaps, groups, pairs, sliding
from tvm_sparse.formats.groups import GROUP
from tvm_sparse.sizes.block_linear import MOST_ROWS, PLANES, BlockLinear, Form
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.jobs import waiting
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.row_linear import delivery_cycles

SUMS = {16: 8, 32: 16}
"""Vectors of integer sums, by the vector registers of a processor. The others hold codes, their
activations and constants."""

OPERATIONS = {"x86_64": 4.0, "aarch64": 2.0}
"""Operations on vectors of integers that a core does in a cycle: of Zen 3, and of Cortex-A76."""

OF_A_BLOCK = 8
"""Operations by which a vector of products becomes part of the result of a row, once a block."""

MISS_CYCLES = 8
"""Cycles that a core waits where a loop ends that it expected to go on; fitted to 80 % zeros in
blocks of 32 on Zen 3, where loads go on meanwhile."""

EXPAND_CYCLES = 6
"""Cycles in which a core puts the codes of eight columns of a group in their places: one port loads
two masks and expands by them. Measured from L2 on a core of the Sapphire Rapids class."""


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


@dataclass(frozen=True)
class SparsePairTiling(BlockRowTiling):
    """How a layer whose weight is packed in pairs is cut."""


@dataclass(frozen=True)
class SparseWindowTiling(BlockRowTiling):
    """How a layer whose weight is packed in windows is cut."""


@dataclass(frozen=True)
class SparseBitmapTiling(BlockRowTiling):
    """How a layer whose weight is packed with bitmaps is cut."""


class BlockRowsFamily(Family[BlockLinear, BlockRowTiling]):
    """Weights of few bits in one form."""

    sizes = BlockLinear
    form: ClassVar[Form]
    columns: ClassVar[int]
    """Blocks are a multiple of it."""

    def dots(self, cpu: CpuProfile) -> RowDots | None:
        """Return the instruction that multiplies, or None if there is none."""
        return row_dots(cpu)

    def refusal_of_sizes(self, problem: BlockLinear, cpu: CpuProfile) -> str:
        """Return why the kernel cannot compute a layer; an empty string if it can."""
        if self.dots(cpu) is None:
            return "the kernels of few bits need AVX2, VNNI or NEON's dot products"
        if problem.rows > MOST_ROWS:
            return f"the kernels of few bits take up to {MOST_ROWS} rows, not {problem.rows}"
        if problem.block % self.columns:
            return f"the kernels of few bits take blocks of a multiple of {self.columns} channels"
        return "" if problem.form == self.form else f"its weight is packed as {problem.form}"

    def default(self, layer: Layer[BlockLinear], cpu: CpuProfile) -> BlockRowTiling:
        """Return the tile of as many rows as the registers hold sums for."""
        problem = layer.problem
        most = max(SUMS[cpu.vector_registers] // self.sums_of_row(problem, self._dots(cpu)), 1)
        tiles = -(-problem.rows // most)
        tiling = self.tiling(-(-problem.rows // tiles), 1)
        cycles = self.cycles(layer, tiling, replace(cpu, cores=1))
        pays = cycles * (1 - 1 / cpu.cores) > LAUNCH_CYCLES
        return replace(tiling, jobs=cpu.cores if pays else 1)

    def tilings(self, layer: Layer[BlockLinear], cpu: CpuProfile) -> Iterator[BlockRowTiling]:
        """Yield tiles of one row and more, for one thread and for all."""
        default = self.default(layer, cpu)
        for rows in range(1, default.rows + 1):
            for jobs in (1, cpu.cores):
                yield self.tiling(rows, jobs)

    def cycles(self, layer: Layer[BlockLinear], tiling: BlockRowTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        They are those of the instructions, or of the delivery of the weight, whichever takes
        longer.
        """
        problem, dots = layer.problem, self._dots(cpu)
        tiles = -(-problem.rows // tiling.rows)
        of_blocks = _groups(problem) * problem.blocks * (GROUP // dots.lanes) * OF_A_BLOCK
        operations = self.operations(problem, tiles, dots) + of_blocks * problem.rows
        work = operations / OPERATIONS[cpu.architecture] + self.waits(problem)
        delivery = delivery_cycles(self.size(problem), cpu)
        return max(work, delivery) * waiting(tiling.jobs, cpu)

    def size(self, problem: BlockLinear) -> float:
        """Return the bytes of a packed weight, scales of two bytes included."""
        return self.code_bytes(problem) + 2 * _groups(problem) * GROUP * problem.blocks

    def sums_of_row(self, problem: BlockLinear, dots: RowDots) -> int:
        """Return the vectors of sums that a row needs."""
        return GROUP // dots.lanes * PLANES[problem.activations]

    def waits(self, problem: BlockLinear) -> float:
        """Return the cycles in which a core does nothing."""
        del problem
        return 0

    @abstractmethod
    def code_bytes(self, problem: BlockLinear) -> float:
        """Return the bytes of a packed weight without its scales."""

    @abstractmethod
    def operations(self, problem: BlockLinear, tiles: int, dots: RowDots) -> float:
        """Return the operations on vectors that prepare codes once a tile, and multiply them."""

    def register_tile(self, tiling: BlockRowTiling) -> tuple[object, ...]:
        """Return the rows."""
        return (tiling.rows,)

    def _dots(self, cpu: CpuProfile) -> RowDots:
        dots = self.dots(cpu)
        if dots is None:
            raise ValueError(f"{cpu.name} has no products of bytes")
        return dots


class BlockRowLinearFamily(BlockRowsFamily):
    """Dense weights of four or eight bits."""

    name = "block_row_linear"
    tiling = BlockRowTiling
    form, columns = Form.DENSE, groups.COLUMNS

    def sums_of_row(self, problem: BlockLinear, dots: RowDots) -> int:
        """Return the vectors of sums; two for each half of a code of eight bits."""
        halves = 2 if problem.bits == 8 and dots.sum_bits == 16 else 1
        return super().sums_of_row(problem, dots) * halves

    def code_bytes(self, problem: BlockLinear) -> float:
        """Return the bytes of all codes."""
        return _groups(problem) * GROUP * _columns(problem) * problem.bits / 8

    def operations(self, problem: BlockLinear, tiles: int, dots: RowDots) -> float:
        """Return two operations for each half of a code, and a product and a sum a row."""
        vectors = self.code_bytes(problem) / dots.vector_bytes
        halves = 2 if problem.bits == 4 or dots.sum_bits == 16 else 1
        products = halves * (1 + (dots.sum_bits == 16)) * _planes(problem)
        return vectors * (tiles * 2 * halves + products)


class SparsePairFamily(BlockRowsFamily):
    """Weights of four bits with two non-zeros of every four."""

    name = "sparse_pair_row_linear"
    is_sparse = True
    tiling = SparsePairTiling
    form, columns = Form.PAIRS, pairs.COLUMNS

    def code_bytes(self, problem: BlockLinear) -> float:
        """Return the bytes of codes and places."""
        sixteens = _groups(problem) * _columns(problem) / pairs.COLUMNS
        return sixteens * (pairs.CODE_BYTES + pairs.PLACE_BYTES)

    def operations(self, problem: BlockLinear, tiles: int, dots: RowDots) -> float:
        """Return eight operations for a vector of codes, and a lookup, a product and a sum a row.

        A vector of bytes holds two of codes.
        """
        sixteens = _groups(problem) * _columns(problem) / pairs.COLUMNS
        vectors = 2 * sixteens * pairs.CODE_BYTES / dots.vector_bytes
        return vectors * (tiles * 8 + 3 * _planes(problem))


class SparseWindowFamily(BlockRowsFamily):
    """Weights of four bits with zeros anywhere."""

    name = "sparse_window_row_linear"
    is_sparse = True
    tiling = SparseWindowTiling
    form, columns = Form.WINDOWS, groups.COLUMNS

    def dots(self, cpu: CpuProfile) -> RowDots | None:
        """Return the products of pairs of bytes."""
        return shuffled_dots(cpu)

    def code_bytes(self, problem: BlockLinear) -> float:
        """Return the bytes of the steps and of where blocks start."""
        return problem.steps * (sliding.STEP_BYTES + 1) + 4 * _groups(problem) * problem.blocks

    def operations(self, problem: BlockLinear, tiles: int, dots: RowDots) -> float:
        """Return ten operations for a step of one vector, and three a row.

        These are a lookup, a product and a sum; NEON has two products.
        """
        vectors = sliding.STEP_BYTES // dots.vector_bytes
        return problem.steps * vectors * (tiles * 10 + 3 * _planes(problem))

    def sums_of_row(self, problem: BlockLinear, dots: RowDots) -> int:
        """Return the vectors of sums of 16 bits, two for each pair of bytes with NEON."""
        return PLANES[problem.activations] * (4 if dots.is_signed else 1)

    def waits(self, problem: BlockLinear) -> float:
        """Return the cycles at the ends of blocks, which have different numbers of steps."""
        return _groups(problem) * problem.blocks * MISS_CYCLES


class SparseBitmapFamily(BlockRowsFamily):
    """Weights of four bits with a bit for each weight."""

    name = "sparse_bitmap_row_linear"
    is_sparse = True
    tiling = SparseBitmapTiling
    form, columns = Form.BITMAPS, groups.COLUMNS

    def dots(self, cpu: CpuProfile) -> RowDots | None:
        """Return the products of words that an instruction fills by a mask."""
        return expanding_dots(cpu)

    def refusal_of_sizes(self, problem: BlockLinear, cpu: CpuProfile) -> str:
        """Return that codes cannot be expanded, or what `BlockRowsFamily` says."""
        if self.dots(cpu) is None:
            return "the kernel of bitmaps needs VNNI and VBMI2 of AVX-512"
        if problem.steps > bitmaps.MOST_BYTES:
            return f"the kernel of bitmaps takes codes of {bitmaps.MOST_BYTES} bytes"
        return super().refusal_of_sizes(problem, cpu)

    def code_bytes(self, problem: BlockLinear) -> float:
        """Return the bytes of the codes and the masks."""
        return problem.steps + self._octets(problem) * bitmaps.MASK_BYTES

    def operations(self, problem: BlockLinear, tiles: int, dots: RowDots) -> float:
        """Return those that a core does in `EXPAND_CYCLES`, and two products a row."""
        del dots
        prepared = tiles * EXPAND_CYCLES * OPERATIONS["x86_64"]
        return self._octets(problem) * (prepared + 2 * _planes(problem))

    def _octets(self, problem: BlockLinear) -> int:
        return _groups(problem) * _columns(problem) // groups.COLUMNS


BLOCK_ROW_LINEAR_FAMILY = BlockRowLinearFamily()
SPARSE_PAIR_FAMILY = SparsePairFamily()
SPARSE_WINDOW_FAMILY = SparseWindowFamily()
SPARSE_BITMAP_FAMILY = SparseBitmapFamily()


def _groups(problem: BlockLinear) -> int:
    return -(-problem.n // GROUP)


def _columns(problem: BlockLinear) -> int:
    return problem.blocks * problem.block


def _planes(problem: BlockLinear) -> int:
    """Return the bytes of the integers of all rows."""
    return problem.rows * PLANES[problem.activations]

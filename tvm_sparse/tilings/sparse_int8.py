"""Quantized layers whose zeros are skipped, a word of integers at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import loads_per_cycle
from tvm_sparse.formats.sparse import OFFSET_UNIT, SparseLayout, SparseTiling
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.family import SizesT, TilingT
from tvm_sparse.tilings.int8_conv2d import IntegerWindows
from tvm_sparse.tilings.integers import (
    CONVERSION_CYCLES,
    DOT_SHARE,
    IntegerFamily,
    dots_of,
    pass_lanes,
)
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_groups import GROUP_CYCLES

PLACE_COLUMNS = (4, 2, 1)
"""Columns that may meet a word of the weight together."""

MOST_GROUP = 12
"""Most output channels of a group."""

FAR_LOADS = 1.8
"""Loads from L1 that take as long as one of a column that lies in L2. In ResNet-50 with 85 % of
zeros, layers of 3x3 by 256 and 512 channels took 1.7 times as many cycles, on a Xeon of
the Sapphire Rapids class."""

WINDOW_GROUPS = 16
"""Groups whose channels are sorted together."""


@dataclass(frozen=True)
class SparseInt8Tiling:
    """Groups of a quantized layer whose words are walked side by side.

    Attributes
    ----------
    group : int
        Output channels of a group.
    columns : int
        Columns of lanes that meet a word of the weight together.
    """

    group: int
    columns: int


@dataclass(frozen=True)
class SparseInt8LinearTiling(SparseInt8Tiling):
    """The tiling of a linear layer."""


@dataclass(frozen=True)
class SparseInt8Conv2dTiling(SparseInt8Tiling):
    """The tiling of a convolution."""


@dataclass(frozen=True)
class Columns:
    """The columns of words that a layer makes of its input.

    Attributes
    ----------
    words : int
        Words of a column.
    of_pass : int
        Columns that are computed together.
    passes : float
        How often they are.
    cycles : float
        Cycles in which all of them are made.
    """

    words: int
    of_pass: int
    passes: float
    cycles: float


class SparseIntegers(IntegerFamily[SizesT, TilingT]):
    """Quantized layers by dot products of vectors with the words that are not zero."""

    is_sparse = True
    on_matrix_unit = False

    @abstractmethod
    def columns(self, problem: SizesT, cpu: CpuProfile) -> Columns:
        """Return the columns of a layer."""

    def outputs(self, problem: Any) -> int:
        """Return the output channels of a layer."""
        return int(problem.n if isinstance(problem, Linear) else problem.out_channels)

    def refusal_of_offsets(self, problem: SizesT, cpu: CpuProfile) -> str:
        """Return that the words of a column are too many for offsets, or an empty string."""
        words = self.columns(problem, cpu).words
        return (
            "" if _reaches(words, 1, cpu) else f"{words} words are out of reach of 16-bit offsets"
        )

    def cuts_evenly(self, problem: SizesT, tiling: Any) -> bool:
        """Return whether a place has one of the numbers of columns."""
        del problem
        return tiling.columns in PLACE_COLUMNS

    def default(self, layer: Layer[SizesT], cpu: CpuProfile) -> TilingT:
        """Return the tiling of the fewest cycles of those whose sums fill the registers."""
        filled = (self._filled(columns, cpu) for columns in PLACE_COLUMNS)
        reaching = [tiling for tiling in filled if self._serves(layer.problem, tiling, cpu)]
        return min(reaching, key=lambda tiling: self.cycles(layer, tiling, cpu))

    def tilings(self, layer: Layer[SizesT], cpu: CpuProfile) -> Iterator[TilingT]:
        """Yield groups that fill the registers, and smaller ones, with each number of columns."""
        yield self.default(layer, cpu)
        for columns in PLACE_COLUMNS:
            most: Any = self._filled(columns, cpu)
            for group in (most.group, 4, 3, 2):
                tiling = replace(most, group=min(group, most.group))
                if self._serves(layer.problem, tiling, cpu):
                    yield tiling

    def cycles(self, layer: Layer[SizesT], tiling: Any, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        A word costs the loads of its offset, of itself and of the columns, or their dot products,
        whichever take longer. Where dot products take a word from any element of a vector, a load
        brings four words, and another one their offsets.
        """
        found, n = self.columns(layer.problem, cpu), self.outputs(layer.problem)
        places = found.passes * -(-found.of_pass // tiling.columns)
        of_weight = 2 / 4 if dots_of(cpu).by_element else 2
        place_bytes = found.words * tiling.columns * dots_of(cpu).lanes * 4
        of_columns = tiling.columns * (FAR_LOADS if place_bytes > cpu.l1_bytes else 1)
        loads = (of_columns + of_weight) / loads_per_cycle(cpu)
        products = tiling.columns / 2 / DOT_SHARE * (1 if dots_of(cpu).adds else 2)
        walk = layer.word_density * n * found.words * max(loads, products)
        return places * (walk + -(-n // tiling.group) * GROUP_CYCLES) + found.cycles

    def register_tile(self, tiling: Any) -> tuple[object, ...]:
        """Return channels of a group and columns."""
        return tiling.group, tiling.columns

    def _filled(self, columns: int, cpu: CpuProfile) -> TilingT:
        """Return the largest group whose sums stay in registers, beside a word and its columns."""
        group = (cpu.vector_registers - columns - 2) // columns
        fields: dict[str, Any] = {"group": min(max(group, 1), MOST_GROUP), "columns": columns}
        return self.tiling(**fields)

    def _serves(self, problem: SizesT, tiling: Any, cpu: CpuProfile) -> bool:
        return _reaches(self.columns(problem, cpu).words, tiling.columns, cpu)


class SparseInt8LinearFamily(SparseIntegers[Linear, SparseInt8LinearTiling]):
    """Sparse quantized linear layers."""

    name = "sparse_int8_linear"
    sizes, tiling = Linear, SparseInt8LinearTiling

    def refusal_of_sizes(self, problem: Linear, cpu: CpuProfile) -> str:
        """Return why no kernel takes such panels or channels; an empty string if one does."""
        lanes = self.refusal_of_lanes(cpu, problem.lanes)
        return lanes or self.refusal_of_offsets(problem, cpu)

    def pass_rows(self, problem: Linear, cpu: CpuProfile) -> int:
        """Return the rows that are computed together."""
        return max(1, pass_lanes(-(-problem.k // dots_of(cpu).per_word)) // problem.lanes)

    def columns(self, problem: Linear, cpu: CpuProfile) -> Columns:
        """Return the columns of a layer."""
        dots, rows = dots_of(cpu), min(self.pass_rows(problem, cpu), problem.rows)
        words = -(-problem.k // dots.per_word)
        of_row = -(-problem.lanes // dots.lanes)
        of_pass = -(-rows // max(1, dots.lanes // problem.lanes)) * of_row
        made = problem.rows * problem.lanes / dots.lanes * words * CONVERSION_CYCLES
        return Columns(words, of_pass, problem.rows / rows, made)


class SparseInt8Conv2dFamily(
    SparseIntegers[Conv2d, SparseInt8Conv2dTiling], IntegerWindows[SparseInt8Conv2dTiling]
):
    """Sparse quantized convolutions."""

    name = "sparse_int8_conv2d"
    sizes, tiling = Conv2d, SparseInt8Conv2dTiling

    def refusal_of_sizes(self, problem: Conv2d, cpu: CpuProfile) -> str:
        """Return why no columns of words serve a layer; an empty string if they do."""
        window = IntegerWindows.refusal_of_sizes(self, problem, cpu)
        return window or self.refusal_of_offsets(problem, cpu)

    def columns(self, problem: Conv2d, cpu: CpuProfile) -> Columns:
        """Return the columns of a layer."""
        window = self.window(problem, cpu)
        rows = min(self.pass_rows(window), int(problem.out_height))
        of_pass = -(-rows // max(1, window.lanes // problem.lanes_out)) * window.columns
        passes = int(problem.batch) * int(problem.out_height) / rows
        made = self.gathering_cycles(window, window.words)
        return Columns(window.words, of_pass, passes, made)


SPARSE_INT8_LINEAR_FAMILY = SparseInt8LinearFamily()
SPARSE_INT8_CONV2D_FAMILY = SparseInt8Conv2dFamily()


def word_layout(n: int, words: int, tiling: SparseInt8Tiling, cpu: CpuProfile) -> SparseLayout:
    """Return the layout of a weight ``[N, words]``; offsets lead to the columns of a place."""
    cut = SparseTiling(tiling.group, words, window=WINDOW_GROUPS * tiling.group)
    return SparseLayout.linear(n, words, tiling.columns * dots_of(cpu).lanes, cut)


def _reaches(words: int, columns: int, cpu: CpuProfile) -> bool:
    """Return whether offsets reach all words of the columns of a place."""
    return words * columns * dots_of(cpu).lanes <= OFFSET_UNIT << 16

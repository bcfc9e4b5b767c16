"""Quantized convolutions: how their channels are cut, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.amx import TILE_WORDS, tiles_of
from tvm_sparse.formats.word_window import WordWindow
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.tilings.amx import joined_rows, product_cycles
from tvm_sparse.tilings.family import TilingT
from tvm_sparse.tilings.int8_linear import TILE_BYTES, equal_blocks
from tvm_sparse.tilings.integers import (
    CONVERSION_CYCLES,
    COPY_CYCLES,
    IntegerFamily,
    block_channels,
    dot_cycles,
    dots_of,
    pass_lanes,
    smaller_blocks,
)
from tvm_sparse.tilings.layer import Layer


@dataclass(frozen=True)
class Int8Conv2dTiling:
    """Blocks of a quantized convolution, computed by dot products of vectors.

    Attributes
    ----------
    channels : int
        Output channels of a block.
    """

    channels: int


@dataclass(frozen=True)
class AmxInt8Conv2dTiling:
    """Blocks of a quantized convolution on AMX.

    Attributes
    ----------
    inputs : int
        Weights of an output channel that a block of output channels meets at a time, a multiple
        of 64.
    """

    inputs: int


class IntegerWindows(IntegerFamily[Conv2d, TilingT]):
    """What convolutions by dot products and those on the matrix unit share."""

    sizes = Conv2d

    def refusal_of_sizes(self, problem: Conv2d, cpu: CpuProfile) -> str:
        """Return why no columns of words serve a layer; an empty string if they do."""
        lanes = self.refusal_of_lanes(cpu, problem.lanes_in, problem.lanes_out)
        return lanes or self.refusal_of_window(problem)

    def window(self, problem: Conv2d, cpu: CpuProfile) -> WordWindow:
        """Return how input rows lie in the window."""
        return WordWindow(problem, self.per_word(cpu), self.lanes(cpu))

    def pass_rows(self, window: WordWindow) -> int:
        """Return the output rows that are computed together."""
        columns = max(1, pass_lanes(window.words) // window.lanes)
        joined = max(1, window.lanes // window.problem.lanes_out)
        return max(1, columns * joined // window.columns)

    def gathering_cycles(self, window: WordWindow, words: int) -> float:
        """Return the cycles that make the words of columns, of which each has some `words`."""
        problem = window.problem
        rows = problem.batch * problem.out_height
        pass_rows = min(self.pass_rows(window), problem.out_height)
        columns = rows * window.columns / max(1, window.lanes // problem.lanes_out)
        vectors = window.rows(pass_rows) * window.row_pitch / window.step
        return columns * words * COPY_CYCLES + rows / pass_rows * vectors * CONVERSION_CYCLES


class Int8Conv2dFamily(IntegerWindows[Int8Conv2dTiling]):
    """Quantized convolutions by dot products of vectors."""

    name = "int8_conv2d"
    tiling, on_matrix_unit = Int8Conv2dTiling, False

    def default(self, layer: Layer[Conv2d], cpu: CpuProfile) -> Int8Conv2dTiling:
        """Return blocks whose sums fill most of the registers."""
        return Int8Conv2dTiling(block_channels(layer.problem.out_channels, cpu))

    def tilings(self, layer: Layer[Conv2d], cpu: CpuProfile) -> Iterator[Int8Conv2dTiling]:
        """Yield the default and smaller blocks."""
        for channels in smaller_blocks(self.default(layer, cpu).channels, cpu):
            yield Int8Conv2dTiling(channels)

    def cycles(self, layer: Layer[Conv2d], tiling: Int8Conv2dTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores."""
        problem, dots, window = layer.problem, dots_of(cpu), self.window(layer.problem, cpu)
        joined = max(1, window.lanes // problem.lanes_out)
        columns = problem.batch * problem.out_height * window.columns / joined
        product = dot_cycles(problem.out_channels, window.words, columns, tiling.channels)
        gathered = self.gathering_cycles(window, window.words)
        return product * (1 if dots.adds else 2) + gathered

    def register_tile(self, tiling: Int8Conv2dTiling) -> tuple[object, ...]:
        """Return the output channels of a block."""
        return (tiling.channels,)


class AmxInt8Conv2dFamily(IntegerWindows[AmxInt8Conv2dTiling]):
    """Quantized convolutions on the matrix unit."""

    name = "amx_int8_conv2d"
    tiling, on_matrix_unit = AmxInt8Conv2dTiling, True

    def cuts_evenly(self, problem: Conv2d, tiling: AmxInt8Conv2dTiling) -> bool:
        """Return whether the blocks consist of whole tiles."""
        del problem
        return tiling.inputs % TILE_BYTES == 0

    def default(self, layer: Layer[Conv2d], cpu: CpuProfile) -> AmxInt8Conv2dTiling:
        """Return equal blocks of about 512 weights."""
        return AmxInt8Conv2dTiling(equal_blocks(self.window(layer.problem, cpu).values))

    def tilings(self, layer: Layer[Conv2d], cpu: CpuProfile) -> Iterator[AmxInt8Conv2dTiling]:
        """Yield the default and blocks from 256 to 1,024 weights."""
        yield self.default(layer, cpu)
        values = self.window(layer.problem, cpu).values
        most = tiles_of(values, TILE_BYTES) * TILE_BYTES
        for inputs in (256, 384, 512, 768, 1024):
            yield AmxInt8Conv2dTiling(min(inputs, most))

    def cycles(self, layer: Layer[Conv2d], tiling: AmxInt8Conv2dTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores."""
        problem, window = layer.problem, self.window(layer.problem, cpu)
        rows = problem.batch * problem.out_height
        columns = rows * window.columns / joined_rows(problem.lanes_out)
        passes = rows / min(self.pass_rows(window), problem.out_height)
        words = tiles_of(window.words, TILE_WORDS) * TILE_WORDS
        sizes = problem.out_channels, 2 * words, tiling.inputs // 2
        product = product_cycles(*sizes, columns, passes, memory_cycles=0)
        return product + self.gathering_cycles(window, words)

    def register_tile(self, tiling: AmxInt8Conv2dTiling) -> tuple[object, ...]:
        """Return the weights of a block."""
        return (tiling.inputs,)


INT8_CONV2D_FAMILY = Int8Conv2dFamily()
AMX_INT8_CONV2D_FAMILY = AmxInt8Conv2dFamily()

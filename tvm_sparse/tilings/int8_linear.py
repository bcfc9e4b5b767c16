"""Quantized linear layers: how their channels are cut, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.amx import TILE_WORDS, tiles_of
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.amx import product_cycles
from tvm_sparse.tilings.integers import (
    CONVERSION_CYCLES,
    IntegerFamily,
    block_channels,
    dot_cycles,
    dots_of,
    pass_lanes,
    smaller_blocks,
)
from tvm_sparse.tilings.layer import Layer

TILE_BYTES = 4 * TILE_WORDS
"""Input channels of a tile of the matrix unit."""

DEFAULT_INPUTS = 512
"""Input channels of a block on the matrix unit: as many bytes as of bfloat16 values."""


@dataclass(frozen=True)
class Int8LinearTiling:
    """Blocks of a quantized linear layer, computed by dot products of vectors.

    Attributes
    ----------
    channels : int
        Output channels of a block.
    """

    channels: int


@dataclass(frozen=True)
class AmxInt8LinearTiling:
    """Blocks of a quantized linear layer on AMX.

    Attributes
    ----------
    inputs : int
        Input channels that a block of output channels meets at a time, a multiple of 64.
    """

    inputs: int


class Int8LinearFamily(IntegerFamily[Linear, Int8LinearTiling]):
    """Quantized linear layers by dot products of vectors."""

    name = "int8_linear"
    sizes, tiling, on_matrix_unit = Linear, Int8LinearTiling, False

    def refusal_of_sizes(self, problem: Linear, cpu: CpuProfile) -> str:
        """Return why columns take no panels of such lanes; an empty string if they do."""
        return self.refusal_of_lanes(cpu, problem.lanes)

    def default(self, layer: Layer[Linear], cpu: CpuProfile) -> Int8LinearTiling:
        """Return blocks whose sums fill most of the registers."""
        return Int8LinearTiling(block_channels(layer.problem.n, cpu))

    def tilings(self, layer: Layer[Linear], cpu: CpuProfile) -> Iterator[Int8LinearTiling]:
        """Yield the default and smaller blocks."""
        for channels in smaller_blocks(self.default(layer, cpu).channels, cpu):
            yield Int8LinearTiling(channels)

    def cycles(self, layer: Layer[Linear], tiling: Int8LinearTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores."""
        problem, dots = layer.problem, dots_of(cpu)
        words, columns = -(-problem.k // dots.per_word), problem.rows * problem.lanes / dots.lanes
        product = dot_cycles(problem.n, words, columns, tiling.channels)
        return product * (1 if dots.adds else 2) + columns * words * CONVERSION_CYCLES

    def pass_rows(self, problem: Linear, cpu: CpuProfile) -> int:
        """Return the rows that are computed together."""
        return max(1, pass_lanes(-(-problem.k // dots_of(cpu).per_word)) // problem.lanes)

    def register_tile(self, tiling: Int8LinearTiling) -> tuple[object, ...]:
        """Return the output channels of a block."""
        return (tiling.channels,)


class AmxInt8LinearFamily(IntegerFamily[Linear, AmxInt8LinearTiling]):
    """Quantized linear layers on the matrix unit.

    Weights of bytes come from L3 once, and from L2 in later passes. In BERT-base at 128 tokens, a
    layer of 768 x 768 takes 36 us on two cores of a Xeon of the Sapphire Rapids class, and one from
    3,072 to 768 takes 127 us in two passes.
    """

    name = "amx_int8_linear"
    sizes, tiling, on_matrix_unit = Linear, AmxInt8LinearTiling, True

    def refusal_of_sizes(self, problem: Linear, cpu: CpuProfile) -> str:
        """Return why columns take no panels of such lanes; an empty string if they do."""
        return self.refusal_of_lanes(cpu, problem.lanes)

    def cuts_evenly(self, problem: Linear, tiling: AmxInt8LinearTiling) -> bool:
        """Return whether the blocks consist of whole tiles."""
        del problem
        return tiling.inputs % TILE_BYTES == 0

    def default(self, layer: Layer[Linear], cpu: CpuProfile) -> AmxInt8LinearTiling:
        """Return blocks of about `DEFAULT_INPUTS` input channels, as equal as can be."""
        del cpu
        return AmxInt8LinearTiling(equal_blocks(layer.problem.k))

    def tilings(self, layer: Layer[Linear], cpu: CpuProfile) -> Iterator[AmxInt8LinearTiling]:
        """Yield the default and blocks from 256 to 1,024 input channels."""
        yield self.default(layer, cpu)
        most = tiles_of(layer.problem.k, TILE_BYTES) * TILE_BYTES
        for inputs in (256, 384, 512, 768, 1024):
            yield AmxInt8LinearTiling(min(inputs, most))

    def cycles(self, layer: Layer[Linear], tiling: AmxInt8LinearTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores."""
        problem = layer.problem
        columns = problem.rows * problem.lanes / self.lanes(cpu)
        words = tiles_of(problem.k, TILE_BYTES) * TILE_WORDS
        # A tile holds twice the inputs of one of bfloat16 values.
        sizes = problem.n, 2 * words, tiling.inputs // 2
        product = product_cycles(*sizes, columns, passes=1, memory_cycles=0)
        return product + columns * words * CONVERSION_CYCLES

    def pass_rows(self, problem: Linear, cpu: CpuProfile) -> int:
        """Return the rows that are computed together."""
        del cpu
        return max(1, pass_lanes(tiles_of(problem.k, 4)) // problem.lanes)

    def register_tile(self, tiling: AmxInt8LinearTiling) -> tuple[object, ...]:
        """Return the input channels of a block."""
        return (tiling.inputs,)


def equal_blocks(inputs: int) -> int:
    """Return the inputs of blocks of about `DEFAULT_INPUTS`, of whole tiles, as equal as can be."""
    tiles = tiles_of(inputs, TILE_BYTES)
    blocks = max(1, round(tiles * TILE_BYTES / DEFAULT_INPUTS))
    return -(-tiles // blocks) * TILE_BYTES


INT8_LINEAR_FAMILY = Int8LinearFamily()
AMX_INT8_LINEAR_FAMILY = AmxInt8LinearFamily()

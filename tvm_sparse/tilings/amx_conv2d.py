"""Dense convolutions on the matrix unit AMX: how their weights are cut, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.amx import TILE_INPUTS, tiles_of
from tvm_sparse.formats.word_window import WordWindow
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.tilings.amx import (
    CONVERSION_CYCLES,
    equal_blocks,
    joined_rows,
    product_cycles,
    refusal_of_panels,
)
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.layer import Layer

COPY_CYCLES = 5.0
"""Cycles in which a core copies 16 pairs from the window to a column."""

PASS_PAIRS = 2048
"""Pairs of a part, times 16, of all columns of a pass: 128 KB, which stay in L2."""
FEWEST_COLUMNS, MOST_COLUMNS = 8, 32
"""Columns that meet a part of the weight while it is in L1."""


@dataclass(frozen=True)
class AmxConv2dTiling:
    """Blocks of a dense convolution on AMX.

    Attributes
    ----------
    inputs : int
        Weights of an output channel that a block of output channels meets at a time, a multiple
        of 32.
    """

    inputs: int


class AmxConv2dFamily(Family[Conv2d, AmxConv2dTiling]):
    """Dense convolutions of float16 panels in bfloat16, summed in float32."""

    name = "amx_conv2d"
    sizes, tiling = Conv2d, AmxConv2dTiling

    def refusal_of_sizes(self, problem: Conv2d, cpu: CpuProfile) -> str:
        """Return why the unit cannot compute a layer; an empty string if it can."""
        reason = refusal_of_panels(cpu, problem.dtype, problem.lanes_in, problem.lanes_out)
        if reason:
            return reason
        if problem.groups > 1:
            return "the matrix unit computes no convolutions of several groups"
        if problem.stride[1] not in (1, 2, 4, 8, 16):
            return f"the matrix unit's window takes no steps of {problem.stride[1]} pixels"
        return ""

    def cuts_evenly(self, problem: Conv2d, tiling: AmxConv2dTiling) -> bool:
        """Return whether the blocks consist of whole tiles."""
        del problem
        return tiling.inputs % TILE_INPUTS == 0

    def default(self, layer: Layer[Conv2d], cpu: CpuProfile) -> AmxConv2dTiling:
        """Return equal blocks of about 256 weights."""
        del cpu
        return AmxConv2dTiling(equal_blocks(WordWindow(layer.problem).values))

    def tilings(self, layer: Layer[Conv2d], cpu: CpuProfile) -> Iterator[AmxConv2dTiling]:
        """Yield the default and blocks from 128 to 512 weights."""
        yield self.default(layer, cpu)
        most = tiles_of(WordWindow(layer.problem).values, TILE_INPUTS) * TILE_INPUTS
        for inputs in (128, 192, 256, 320, 384, 512):
            yield AmxConv2dTiling(min(inputs, most))

    def pass_rows(self, window: WordWindow, tiling: AmxConv2dTiling) -> int:
        """Return the output rows that are computed together."""
        pairs = min(window.words, tiling.inputs // 2)
        columns = min(max(PASS_PAIRS // pairs, FEWEST_COLUMNS), MOST_COLUMNS)
        return max(1, columns * joined_rows(window.problem.lanes_out) // window.columns)

    def cycles(self, layer: Layer[Conv2d], tiling: AmxConv2dTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores."""
        del cpu
        problem, window = layer.problem, WordWindow(layer.problem)
        rows = problem.batch * problem.out_height
        columns = rows * window.columns / joined_rows(problem.lanes_out)
        pass_rows = min(self.pass_rows(window, tiling), problem.out_height)
        passes = rows / pass_rows
        sizes = problem.out_channels, window.values
        copies = tiles_of(sizes[1], TILE_INPUTS) * TILE_INPUTS / 2 * COPY_CYCLES
        vectors = window.rows(pass_rows) * window.row_pitch / window.step
        gathered = columns * copies + passes * vectors * CONVERSION_CYCLES
        return gathered + product_cycles(*sizes, tiling.inputs, columns, passes)

    def register_tile(self, tiling: AmxConv2dTiling) -> tuple[object, ...]:
        """Return the weights of a block."""
        return (tiling.inputs,)


AMX_CONV2D_FAMILY = AmxConv2dFamily()

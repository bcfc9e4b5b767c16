"""Dense convolutions whose vectors run over all rows: tilings and costs."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import line_elements
from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.flat_window import FlatWindow
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.jobs import waiting
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.registers import dense_step_cycles, fits_registers

LOOP_SHARE = 0.75
"""Share of the speed of the inner loops that loads and multiply-adds alone would give."""

SUM_CYCLES = 2.0
"""Cycles to keep a vector of sums and to fetch it for the epilogue."""

ROW_CYCLES = 2.0
"""Cycles to begin a row of results of a channel, or of the window."""

GATHER_CYCLES = 3.0
"""Cycles to load, shuffle and store a vector of the window."""

L2_SHARE = 0.5
"""Share of the L2 cache for the window of a job."""

MOST_VECTORS = 4
"""Most vectors of a tile."""

MOST_BLOCKS = 16
"""Most blocks of rows that are tried."""

MOST_UNROLLED = 25
"""Most taps of a kernel with a stride, whose rows have code of their own."""


@dataclass(frozen=True)
class FlatConv2dTiling:
    """How the work of a dense convolution without gaps between rows is cut.

    Attributes
    ----------
    channels, vectors : int
        Output channels, and vectors of pixels, of a register tile.
    width : int
        Values per vector.
    row_block : int
        Output rows of a job, whose pixels follow one another.
    chunks : int
        Parts of the output channels, for different threads.
    """

    channels: int
    vectors: int
    width: int
    row_block: int
    chunks: int


class FlatConv2dFamily(Family[Conv2d, FlatConv2dTiling]):
    """Dense convolutions of any number of groups, not depthwise, on rows with idle lanes."""

    name = "flat_conv2d"
    sizes, tiling = Conv2d, FlatConv2dTiling

    def refusal_of_sizes(self, problem: Conv2d, cpu: CpuProfile) -> str:
        """Return a reason if rows fill their vectors, or the kernel is another one's."""
        if problem.is_depthwise:
            return "a depthwise convolution has a kernel of its own"
        if problem.dtype != ACTIVATIONS:
            return f"the kernel computes in {ACTIVATIONS}"
        if problem.stride[0] > 1 and math.prod(problem.kernel) > MOST_UNROLLED:
            return "the kernel has many taps and a stride"
        width = cpu.vector_lanes(problem.dtype)
        if problem.out_width % width == 0:
            return "rows have no idle lanes"
        if next(_possible(problem, cpu), None) is None:
            return "a row exceeds the cache"
        return ""

    def default(self, layer: Layer[Conv2d], cpu: CpuProfile) -> FlatConv2dTiling:
        """Return the tiling of the fewest cycles."""
        return _default(layer.problem, cpu)

    def tilings(self, layer: Layer[Conv2d], cpu: CpuProfile) -> Iterator[FlatConv2dTiling]:
        """Yield the register tiles that the registers hold, with the jobs of the default."""
        default = self.default(layer, cpu)
        for vectors in range(1, MOST_VECTORS + 1):
            for channels in range(4, 31):
                if fits_registers(channels, vectors, cpu, layer.problem.dtype):
                    yield replace(default, channels=channels, vectors=vectors)

    def cycles(self, layer: Layer[Conv2d], tiling: FlatConv2dTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        They are those of the multiply-adds, of the sums, of the rows of results, and of the
        gathering; cores that wait for others in the end count as if they worked.
        """
        problem = layer.problem
        whole, rest = divmod(problem.out_height, tiling.row_block)
        jobs = problem.batch * (whole + (rest > 0)) * tiling.chunks
        chunk_blocks = -(-_blocks(problem, tiling) // tiling.chunks)
        piece = self.piece_cycles(problem, tiling, cpu) / _blocks(problem, tiling)
        work = 0.0
        for rows, count in ((tiling.row_block, whole), (rest, 1)):
            if not rows:
                continue
            window = FlatWindow(problem, tiling.width, problem.channels, tile_rows=rows)
            pieces = -(-window.vectors // tiling.vectors)
            stored = rows * (ROW_CYCLES + SUM_CYCLES * problem.lanes_out / tiling.width)
            planes = problem.channels * len(window.phases) * len(window.origins)
            per_row = ROW_CYCLES + GATHER_CYCLES * -(-window.pitch // tiling.width)
            gathered = planes * window.phase_rows * per_row
            work += count * (chunk_blocks * (pieces * piece + stored * tiling.channels) + gathered)
        return waiting(jobs, cpu) * problem.batch * tiling.chunks * work

    def piece_cycles(self, problem: Conv2d, tiling: FlatConv2dTiling, cpu: CpuProfile) -> float:
        """Return the cycles of the multiply-adds of a piece, for all output channels."""
        taps = problem.channels // problem.groups * math.prod(problem.kernel)
        lines = 1 + (tiling.width - 1) / line_elements(problem.dtype)
        channels, vectors = tiling.channels, tiling.vectors
        step = dense_step_cycles(channels, vectors, lines, cpu, problem.dtype)
        return _blocks(problem, tiling) * taps * step / LOOP_SHARE

    def register_tile(self, tiling: FlatConv2dTiling) -> tuple[object, ...]:
        """Return output channels and vectors."""
        return tiling.channels, tiling.vectors


FLAT_CONV2D_FAMILY = FlatConv2dFamily()


def _blocks(problem: Conv2d, tiling: FlatConv2dTiling) -> int:
    """Return the blocks of output channels of all groups."""
    return -(-(problem.out_channels // problem.groups) // tiling.channels) * problem.groups


@functools.cache
def _default(problem: Conv2d, cpu: CpuProfile) -> FlatConv2dTiling:
    family, layer = FLAT_CONV2D_FAMILY, Layer(problem)
    reason = family.refusal(layer, cpu)
    if reason:
        raise ValueError(reason)
    return min(_possible(problem, cpu), key=lambda tiling: family.cycles(layer, tiling, cpu))


def _possible(problem: Conv2d, cpu: CpuProfile) -> Iterator[FlatConv2dTiling]:
    """Yield the tilings that the caches and the registers allow."""
    width, height = cpu.vector_lanes(problem.dtype), problem.out_height
    elements = int(L2_SHARE * cpu.l2_bytes) // problem.dtype.bytes
    blocks = range(1, min(height, MOST_BLOCKS) + 1)
    for rows in sorted({-(-height // count) for count in blocks} | {1}):
        window = FlatWindow(problem, width, problem.channels, tile_rows=rows)
        if window.held(window.vectors + MOST_VECTORS) > elements:
            break
        for channels, vectors in _tiles(problem, cpu):
            one = FlatConv2dTiling(channels, vectors, width, rows, 1)
            for chunks in {1, min(cpu.cores, _blocks(problem, one))}:
                yield replace(one, chunks=chunks)


def _tiles(problem: Conv2d, cpu: CpuProfile) -> Iterator[tuple[int, int]]:
    """Yield channels and vectors of register tiles that waste few channels of the last block."""
    outputs = problem.out_channels // problem.groups
    for vectors in range(1, MOST_VECTORS + 1):
        sizes = range(1, min(outputs, cpu.vector_registers) + 1)
        fitting = [size for size in sizes if fits_registers(size, vectors, cpu, problem.dtype)]
        if fitting:
            most = fitting[-1]
            halves = range(most, most // 2, -1)
            yield (
                min(halves, key=lambda size: -(-outputs // size) * (size + 1)),
                vectors,
            )

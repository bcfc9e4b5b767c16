"""Dense convolutions: how their channels and rows are cut, and what that costs."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import FMA_PER_CYCLE
from tvm_sparse.sizes.conv2d import Conv2d, Window
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.gathering import GATHER_CYCLES, lines_per_load
from tvm_sparse.tilings.jobs import waiting
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.registers import dense_step_cycles, fits_registers

DENSE_SHARE = 0.7
"""Share of the FMA peak that the kernel reaches with its default tile. Measured on 3x3 layers of
ResNet-50 on a Xeon: 0.61 to 0.70 in AVX-512 code, 0.69 to 0.95 in AVX2 code."""

NEON_DENSE_SHARE = 0.85
"""Share of the FMA peak on 64-bit ARM: nine tenths of what llvm-mca gives for the inner loops."""

L2_SHARE = 0.5
"""Share of the L2 cache for the window of a job."""

ROW_COST = 0.02
"""Share of time that every further row of a tile costs: vectors of one row lie side by side, and
are read and written faster."""

MOST_SOURCES = 4
"""Most vectors of a default tile, of one row or of several."""


@dataclass(frozen=True)
class Conv2dTiling:
    """How the work of a dense convolution is cut.

    Attributes
    ----------
    channels : int
        Output channels of a register tile.
    vectors, rows : int
        Vectors of a row, and output rows, of a register tile.
    width : int
        Values per vector.
    row_block : int
        Output rows of a job, which gathers their input rows once.
    chunks : int
        Parts of the output channels, for different threads.
    """

    channels: int
    vectors: int
    rows: int
    width: int
    row_block: int
    chunks: int


class Conv2dFamily(Family[Conv2d, Conv2dTiling]):
    """Dense convolutions, of any number of groups, that are not depthwise."""

    name = "conv2d"
    sizes, tiling = Conv2d, Conv2dTiling

    def refusal_of_sizes(self, problem: Conv2d, cpu: CpuProfile) -> str:
        """Return a reason if the convolution is depthwise; else an empty string."""
        del cpu
        return "a depthwise convolution has a kernel of its own" if problem.is_depthwise else ""

    def default(self, layer: Layer[Conv2d], cpu: CpuProfile) -> Conv2dTiling:
        """Return the register tile of the fewest cycles, and jobs that gather least."""
        return _default(layer.problem, cpu)

    def tilings(self, layer: Layer[Conv2d], cpu: CpuProfile) -> Iterator[Conv2dTiling]:
        """Yield the register tiles that the registers hold, with the jobs of the default."""
        default = self.default(layer, cpu)
        for vectors, rows, channels in itertools.product((1, 2, 3, 4), (1, 2, 3, 4), range(4, 31)):
            fits = fits_registers(channels, vectors * rows, cpu, layer.problem.dtype)
            if fits and rows <= layer.problem.out_height:
                row_block = -(-default.row_block // rows) * rows
                tile = {"vectors": vectors, "rows": rows, "channels": channels}
                yield replace(default, **tile, row_block=row_block)

    def cycles(self, layer: Layer[Conv2d], tiling: Conv2dTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        They are the multiply-adds at the measured share of the peak. The share was measured with
        the default register tile; with another one, the cycles grow as those of the inner loops
        do, which loads and multiply-adds determine. The sizes of the jobs do not count.
        """
        problem, default = layer.problem, self.default(layer, cpu)
        window = Window(problem, tiling.width, problem.channels)
        taps = problem.channels // problem.groups * math.prod(problem.kernel)
        rows = problem.batch * problem.out_height
        share = DENSE_SHARE if cpu.weights_per_load(problem.dtype) == 1 else NEON_DENSE_SHARE
        weights = problem.out_channels * taps
        measured = rows * window.vectors * weights / FMA_PER_CYCLE / share
        loops = _loop_cycles(window, tiling, cpu) / _loop_cycles(window, default, cpu)
        return measured * loops

    def register_tile(self, tiling: Conv2dTiling) -> tuple[object, ...]:
        """Return output channels, vectors and rows."""
        return tiling.channels, tiling.vectors, tiling.rows


CONV2D_FAMILY = Conv2dFamily()


@functools.cache
def _default(problem: Conv2d, cpu: CpuProfile) -> Conv2dTiling:
    width = cpu.vector_width(problem.lanes_out, problem.dtype)
    window = Window(problem, width, problem.channels)
    outputs = problem.out_channels // problem.groups
    tiles = [
        Conv2dTiling(channels, vectors, rows, width, row_block=rows, chunks=1)
        for vectors in range(1, min(MOST_SOURCES, window.vectors) + 1)
        for rows in range(1, min(MOST_SOURCES // vectors, problem.out_height) + 1)
        for channels in range(1, min(outputs, cpu.vector_registers) + 1)
        if fits_registers(channels, vectors * rows, cpu, problem.dtype)
    ]
    tile = min(tiles, key=lambda tile: _loop_cycles(window, tile, cpu))
    row_block, chunks = _jobs(problem, window, tile, cpu)
    return replace(tile, row_block=row_block, chunks=chunks)


def _loop_cycles(window: Window, tiling: Conv2dTiling, cpu: CpuProfile) -> float:
    """Return the cycles of the inner loops for one weight of each output channel of an image."""
    problem, channels, rows = window.problem, tiling.channels, tiling.rows
    lines = lines_per_load(window)
    pieces = _equal_pieces(window.vectors, tiling.vectors)
    work = sum(
        dense_step_cycles(channels, piece * rows, lines, cpu, problem.dtype) for piece in pieces
    )
    outputs = problem.out_channels // problem.groups
    tiles = -(-outputs // channels) * -(-problem.out_height // rows)
    return tiles * work * (1 + ROW_COST * (rows - 1))


def _equal_pieces(vectors: int, most: int) -> list[int]:
    """Cut the vectors of a row into as few pieces of at most `most` as possible, nearly equal."""
    count = -(-vectors // most)
    cuts = [vectors * piece // count for piece in range(count + 1)]
    return [end - first for first, end in itertools.pairwise(cuts)]


def _jobs(problem: Conv2d, window: Window, tile: Conv2dTiling, cpu: CpuProfile) -> tuple[int, int]:
    """Return the output rows of a job, and the chunks of output channels.

    A job's window should take `L2_SHARE` of the L2 cache at most. Among the splits that respect
    it, the best one gives all cores equal shares and gathers little.
    """
    rows, elements = tile.rows, int(L2_SHARE * cpu.l2_bytes) // problem.dtype.bytes
    blocks = -(-(problem.out_channels // problem.groups) // tile.channels) * problem.groups

    def cost(split: tuple[int, int]) -> float:
        row_block, chunks = split
        row_blocks = -(-problem.out_height // row_block)
        jobs = problem.batch * row_blocks * chunks
        channels = -(-blocks // chunks) * chunks / blocks
        padding = row_blocks * row_block / problem.out_height
        gathered = row_blocks * chunks * window.rows(row_block) * window.row_pitch / window.width
        outputs = blocks * problem.out_height * window.vectors
        work = outputs * problem.channels * math.prod(problem.kernel)
        return waiting(jobs, cpu) * (channels * padding * work + gathered * GATHER_CYCLES)

    sizes = [
        -(-problem.out_height // count // rows) * rows for count in range(1, problem.out_height + 1)
    ]
    fitting = [size for size in sizes if size and window.size(size) <= elements] or [rows]
    splits = [(size, chunks) for size in fitting for chunks in {1, min(cpu.cores, blocks)}]
    return min(splits, key=cost)

"""Depthwise convolutions: how their rows and channels are cut, and what that costs."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import FMA_PER_CYCLE, loads_per_cycle
from tvm_sparse.sizes.conv2d import Conv2d, Window
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.gathering import GATHER_CYCLES, lines_per_load
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.registers import FMA_LATENCY, MOST_ROWS

L1_SHARE = 0.5
"""Share of the L1 cache for the window of a job; its outputs pass through the rest."""


@dataclass(frozen=True)
class DepthwiseConv2dTiling:
    """How the work of a depthwise convolution is cut.

    Attributes
    ----------
    rows, vectors : int
        Output rows, and vectors of a row, of a register tile.
    width : int
        Values per vector.
    row_block : int
        Output rows of a job.
    channels : int
        Channels of a job.
    """

    rows: int
    vectors: int
    width: int
    row_block: int
    channels: int


class DepthwiseConv2dFamily(Family[Conv2d, DepthwiseConv2dTiling]):
    """Convolutions in which every channel has a kernel of its own."""

    name = "depthwise_conv2d"
    sizes, tiling = Conv2d, DepthwiseConv2dTiling

    def refusal_of_sizes(self, problem: Conv2d, cpu: CpuProfile) -> str:
        """Return a reason if the convolution is not depthwise; else an empty string."""
        del cpu
        return "" if problem.is_depthwise else "a depthwise kernel has one channel per group"

    def default(self, layer: Layer[Conv2d], cpu: CpuProfile) -> DepthwiseConv2dTiling:
        """Return a tile that is high rather than wide: neighbouring rows share their inputs.

        A job takes whole images where a channel of one fits in the L1 cache, and as many channels
        as fit.
        """
        return _default(layer.problem, cpu)

    def tilings(self, layer: Layer[Conv2d], cpu: CpuProfile) -> Iterator[DepthwiseConv2dTiling]:
        """Yield tiles that the registers hold, and jobs of all, half and a quarter of the channels.

        Compilers reuse the registers of inputs, so that tiles of a little more work as well.
        """
        default = self.default(layer, cpu)
        for vectors, rows in itertools.product((1, 2, 3, 4), range(1, MOST_ROWS + 1)):
            if 2 * vectors * rows <= cpu.vector_registers + 4 and rows <= layer.problem.out_height:
                row_block = -(-default.row_block // rows) * rows
                tiling = replace(default, vectors=vectors, rows=rows, row_block=row_block)
                for share in (1, 2, 4):
                    yield replace(tiling, channels=-(-tiling.channels // share))

    def cycles(self, layer: Layer[Conv2d], tiling: DepthwiseConv2dTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        They are those of the multiply-adds or of the loads, whichever are more, and those of the
        gathering. A tile of few accumulators waits for the latency of its multiply-adds; such a
        wait counts in relation to the wait of the default tile, which the measurements include.
        """
        problem = layer.problem
        window = Window(problem, tiling.width, tiling.channels)
        rows = problem.batch * problem.out_height * problem.channels
        # Rows of a tile share the vectors that they load.
        seen = window.rows(tiling.rows) / tiling.rows
        loads = seen * problem.kernel[1] * lines_per_load(window)
        work = max(math.prod(problem.kernel) / FMA_PER_CYCLE, loads / loads_per_cycle(cpu))
        work *= _latency(tiling) / _latency(self.default(layer, cpu))
        gathered = problem.stride[0] * window.channel_pitch / tiling.width
        return rows * (window.vectors * work + gathered * GATHER_CYCLES)

    def register_tile(self, tiling: DepthwiseConv2dTiling) -> tuple[object, ...]:
        """Return rows and vectors."""
        return tiling.rows, tiling.vectors


DEPTHWISE_CONV2D_FAMILY = DepthwiseConv2dFamily()


@functools.cache
def _default(problem: Conv2d, cpu: CpuProfile) -> DepthwiseConv2dTiling:
    width = cpu.vector_width(problem.lanes_out, problem.dtype)
    one = Window(problem, width, 1)
    vectors = 1 if one.vectors == 1 else 2
    rows = min(4, problem.out_height, cpu.vector_registers // (2 * vectors))
    elements = int(cpu.l1_bytes * L1_SHARE) // problem.dtype.bytes
    row_block = -(-problem.out_height // rows) * rows
    while row_block > rows and one.size(row_block) > elements:
        row_block = -(-row_block // 2 // rows) * rows
    fitting = max(elements // one.size(row_block), 1)
    jobs = problem.batch * -(-problem.out_height // row_block)
    # Blocks of equal size, and a whole number of them for every core.
    blocks = -(-problem.channels // fitting)
    cores = cpu.cores // math.gcd(cpu.cores, jobs)
    blocks = min(-(-blocks // cores) * cores, problem.channels)
    return DepthwiseConv2dTiling(rows, vectors, width, row_block, -(-problem.channels // blocks))


def reads_in_place(problem: Conv2d, cpu: CpuProfile) -> bool:
    """Return whether the kernel reads the rows of images in place, and shifts them in registers.

    Measured on a Xeon with vectors of 512 bits: 1.0 to 1.9 times as fast as with a window, in
    float32 and in float16, but slower for wide kernels on rows of several vectors. Each output row
    must see a row of the image.
    """
    top, _, bottom, _ = problem.padding
    reach = (problem.kernel[0] - 1) * problem.dilation[0] + 1
    is_cheap = problem.kernel[1] <= 3 or problem.lanes_in <= cpu.vector_lanes(problem.dtype)
    return (
        cpu.architecture == "x86_64"
        and cpu.vector_bits == 512
        and is_cheap
        and problem.stride[1] <= 2
        and max(top, bottom) < reach
    )


def _latency(tiling: DepthwiseConv2dTiling) -> float:
    """Return the time of multiply-adds, as a multiple of the time without any wait for results."""
    return max(1.0, FMA_LATENCY * FMA_PER_CYCLE / (tiling.rows * tiling.vectors))

"""How convolutions are tiled, and which of them are worth a sparse kernel, for any CPU profile.

Nothing here touches the CPU. The constants were measured on the 3x3 layers of ResNet-50 on a Xeon
with AVX-512 and 48 KB of L1, in its AVX-512 and AVX2 code.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import CACHE_LINE_FLOATS, FMA_PER_CYCLE, loads_per_cycle
from tvm_sparse.formats.sparse import SparseConvTiling
from tvm_sparse.sizes.conv2d import Conv2d, Window
from tvm_sparse.tilings.choice import GROUP_CYCLES, Choice, choose, fits_registers

L1_SETS = 64
"""Of an L1 cache whose set is known before the address is translated: pages of 4 KB of lines."""
PARTIAL_SUM_CYCLES = 2.0
"""To load and store a vector of partial sums, from the L2 cache."""
PARTIAL_SUM_MISS_CYCLES = 10.0
"""What it takes longer from the L3 cache."""
PARTIAL_SUM_L2_SHARE = 0.3
"""Share of the L2 cache that partial sums and window of a job may fill before sums are lost to the
L3 cache; the more they exceed it, the more of them."""
GATHER_CYCLES = 2.0
"""To load, shuffle and store a vector of the window."""
L1_SHARE = 0.8
"""Share of the L1 cache for the window of a tile; the weights stream through the rest."""
JOB_L2_SHARE = 0.8
"""Share of the L2 cache for all that a job of a sparse convolution touches, besides weights."""
L2_SHARE = 0.5
"""Share of the L2 cache for the window of a dense convolution's job."""
DEPTHWISE_L1_SHARE = 0.5
"""Share of the L1 cache for the window of a depthwise job; its outputs pass through the rest."""
ROW_COST = 0.02
"""Share of time that every further row of a dense tile costs: vectors of one row lie side by side,
and are read and written faster."""
STEP_COST = 0.015
"""Share of time that every further row of a sparse tile is taken to cost in tensor columns, where
stages advance, and keep rows for one another, by whole tiles."""
MOST_ROWS = 8
"""Output rows of a tile: more of them would leave registers for one output channel only."""
DENSE_SHARE = 0.7
"""Share of the FMA peak that the dense kernel reaches (measured: 0.61 to 0.70 with AVX-512, 0.69 to
0.95 with AVX2)."""
NEON_DENSE_SHARE = 0.85
"""The same on 64-bit ARM: nine tenths of what llvm-mca gives for its inner loops."""


@dataclass(frozen=True)
class DenseConvTiling:
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


@dataclass(frozen=True)
class DepthwiseTiling:
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


@functools.cache
def sparse_conv_tiling(problem: Conv2d, density: float, cpu: CpuProfile) -> SparseConvTiling:
    """Choose the tiling of a sparse convolution.

    Raises
    ------
    ValueError
        If the rows of even one input channel are out of reach of 16-bit offsets.
    """
    candidates = list(sparse_tilings(problem, cpu))
    if not candidates:
        raise ValueError(f"no sparse kernel reaches the inputs of {problem}")

    def cost(tiling: SparseConvTiling) -> float:
        coarse = 1 + STEP_COST * (tiling.rows - 1)
        return coarse * sparse_conv_cycles(problem, density, tiling, cpu)

    return min(candidates, key=cost)


def sparse_conv_cycles(
    problem: Conv2d, density: float, tiling: SparseConvTiling, cpu: CpuProfile
) -> float:
    """Return the expected cycles of a sparse convolution, summed over the cores."""
    channels = min(tiling.k_block, problem.channels)
    window = Window(problem, tiling.width, channels, tiling.shifted)
    k_blocks = -(-problem.channels // channels)
    row_blocks = problem.batch * -(-problem.out_height // tiling.row_block)
    tiles = row_blocks * -(-tiling.row_block // tiling.rows)

    nonzeros = density * problem.out_channels * problem.channels * math.prod(problem.kernel)
    offset_and_weight = 2 / cpu.weights_per_load  # offsets come together where weights do
    vectors = tiling.rows * window.vectors
    pieces = -(-window.vectors // tiling.vectors)
    loads = pieces * offset_and_weight + vectors * _lines_per_load(window)
    per_nonzero = max(loads / loads_per_cycle(cpu), vectors / FMA_PER_CYCLE)
    groups = -(-problem.out_channels // tiling.group) * k_blocks * pieces

    gathered = window.rows(tiling.row_block) * window.row_pitch * k_blocks // tiling.width
    jobs = row_blocks * tiling.chunks
    imbalance = -(-jobs // cpu.cores) * cpu.cores / jobs
    partial_sums = (k_blocks - 1) * problem.out_channels * vectors
    job_sums = tiling.row_block * problem.out_channels // tiling.chunks * problem.lanes_out
    held = 4 * (window.size(tiling.row_block) + job_sums) / cpu.l2_bytes
    missing = min(max(held - PARTIAL_SUM_L2_SHARE, 0), 1)
    per_sum = PARTIAL_SUM_CYCLES + missing * PARTIAL_SUM_MISS_CYCLES
    compute = tiles * (nonzeros * per_nonzero + groups * GROUP_CYCLES + partial_sums * per_sum)
    return imbalance * (compute + jobs * gathered * GATHER_CYCLES)


def dense_conv_cycles(problem: Conv2d, cpu: CpuProfile) -> float:
    """Return the expected cycles of a dense convolution, summed over the cores."""
    tiling = dense_conv_tiling(problem, cpu)
    vectors = Window(problem, tiling.width, problem.channels).vectors
    weights = problem.out_channels * problem.channels // problem.groups * math.prod(problem.kernel)
    rows = problem.batch * problem.out_height
    share = DENSE_SHARE if cpu.weights_per_load == 1 else NEON_DENSE_SHARE
    return rows * vectors * weights / FMA_PER_CYCLE / share


def depthwise_cycles(problem: Conv2d, cpu: CpuProfile) -> float:
    """Return the expected cycles of a depthwise convolution, summed over the cores."""
    tiling = depthwise_tiling(problem, cpu)
    window = Window(problem, tiling.width, tiling.channels)
    rows = problem.batch * problem.out_height * problem.channels
    # Rows of a tile share the vectors that they load.
    loads = window.rows(tiling.rows) / tiling.rows * problem.kernel[1] * _lines_per_load(window)
    work = max(math.prod(problem.kernel) / FMA_PER_CYCLE, loads / loads_per_cycle(cpu))
    gathered = problem.stride[0] * window.channel_pitch / tiling.width
    return rows * (window.vectors * work + gathered * GATHER_CYCLES)


def sparse_conv_pays(problem: Conv2d, density: float, cpu: CpuProfile) -> Choice:
    """Choose between the sparse and the dense kernel for a convolution with a constant weight."""
    dense = dense_conv_cycles(problem, cpu)
    try:
        if problem.groups > 1:
            raise ValueError("the sparse kernel has one group")
        sparse_tiling = sparse_conv_tiling(problem, density, cpu)
    except ValueError as error:
        return Choice(False, str(error), math.inf, dense)
    sparse = sparse_conv_cycles(problem, density, sparse_tiling, cpu)
    return choose(density, sparse, dense)


@functools.cache
def dense_conv_tiling(problem: Conv2d, cpu: CpuProfile) -> DenseConvTiling:
    """Choose the tiling of a dense convolution."""
    width = cpu.vector_width(problem.lanes_out)
    window = Window(problem, width, problem.channels)
    outputs = problem.out_channels // problem.groups
    lines = _lines_per_load(window)

    def piece_cycles(channels: int, sources: int) -> float:
        loads = -(-channels // cpu.weights_per_load) + sources * lines
        loop = 1
        return loop + max(channels * sources / FMA_PER_CYCLE, loads / loads_per_cycle(cpu), 4)

    def cycles(tile: tuple[int, int, int]) -> float:
        channels, vectors, rows = tile
        pieces = equal_pieces(window.vectors, vectors)
        work = sum(piece_cycles(channels, piece * rows) for piece in pieces)
        tiles = -(-outputs // channels) * -(-problem.out_height // rows)
        return tiles * work * (1 + ROW_COST * (rows - 1))

    tiles = [
        (channels, vectors, rows)
        for vectors in range(1, min(4, window.vectors) + 1)
        for rows in range(1, min(4 // vectors, problem.out_height) + 1)
        for channels in range(1, min(outputs, cpu.vector_registers) + 1)
        if fits_registers(channels, vectors * rows, cpu)
    ]
    channels, vectors, rows = min(tiles, key=cycles)
    blocks = -(-outputs // channels) * problem.groups
    floats = int(L2_SHARE * cpu.l2_bytes) // 4
    row_block, chunks = _split_rows(problem, window, rows, floats, blocks, cpu)
    return DenseConvTiling(channels, vectors, rows, width, row_block, chunks)


def equal_pieces(vectors: int, most: int) -> list[int]:
    """Cut the vectors of a row into as few pieces of at most `most` as possible, nearly equal."""
    count = -(-vectors // most)
    cuts = [vectors * piece // count for piece in range(count + 1)]
    return [end - first for first, end in itertools.pairwise(cuts)]


@functools.cache
def depthwise_tiling(problem: Conv2d, cpu: CpuProfile) -> DepthwiseTiling:
    """Choose the tiling of a depthwise convolution.

    A tile is high rather than wide, because neighbouring rows share their inputs. A job takes
    whole images where a channel of one fits in L1, and as many channels as fit.
    """
    width = cpu.vector_width(problem.lanes_out)
    one = Window(problem, width, 1)
    vectors = 1 if one.vectors == 1 else 2
    rows = min(4, problem.out_height, cpu.vector_registers // (2 * vectors))
    floats = int(cpu.l1_bytes * DEPTHWISE_L1_SHARE) // 4
    row_block = -(-problem.out_height // rows) * rows
    while row_block > rows and one.size(row_block) > floats:
        row_block = -(-row_block // 2 // rows) * rows
    fitting = max(floats // one.size(row_block), 1)
    jobs = problem.batch * -(-problem.out_height // row_block)
    # Blocks of equal size, and a whole number of them for every core.
    blocks = -(-problem.channels // fitting)
    cores = cpu.cores // math.gcd(cpu.cores, jobs)
    blocks = min(-(-blocks // cores) * cores, problem.channels)
    return DepthwiseTiling(rows, vectors, width, row_block, -(-problem.channels // blocks))


def sparse_tilings(problem: Conv2d, cpu: CpuProfile) -> Iterator[SparseConvTiling]:
    """Yield the tilings of a sparse convolution that its caches and registers allow."""
    width = cpu.vector_width(problem.lanes_out)
    accumulators = 16 if cpu.vector_registers >= 32 else 12
    floats = int(L1_SHARE * cpu.l1_bytes) // 4
    for shifted, rows in itertools.product((False, True), range(1, MOST_ROWS + 1)):
        one = Window(problem, width, 1, shifted)
        # Pieces of a row: of about equal size, and few enough vectors for the registers.
        sizes = {-(-one.vectors // pieces) for pieces in range(1, one.vectors + 1)}
        for vectors in sizes:
            if rows > problem.out_height or rows * vectors > accumulators:
                continue
            group = accumulators // (rows * vectors)
            group = max(group, 2) if vectors * rows * 2 <= cpu.vector_registers - 2 else group
            seen = min(one.pitch, (vectors + (not shifted)) * width)
            held = int(floats * _sets_in_reach(seen, one.pitch))
            reach = min(held // (one.rows(rows) * len(one.origins) * seen), problem.channels)
            taps = one.rows(1) * one.row_pitch + one.lead + max(problem.width, width)
            reach = min(reach, ((1 << 16) - 1) // taps)
            if reach < 1:
                continue
            k_block = -(-problem.channels // -(-problem.channels // reach))
            window = Window(problem, width, k_block, shifted)
            for blocks in range(1, problem.out_height + 1):
                row_block = -(-problem.out_height // blocks // rows) * rows
                fits = _job_bytes(window, row_block) <= JOB_L2_SHARE * cpu.l2_bytes
                fits = fits or row_block == rows
                if not fits or row_block > problem.out_height + rows - 1:
                    continue
                jobs = problem.batch * -(-problem.out_height // row_block)
                chunks = cpu.cores // math.gcd(cpu.cores, jobs)
                for n in {1, chunks if problem.out_channels % chunks == 0 else 1}:
                    yield SparseConvTiling(
                        group, k_block, n, rows=rows, width=width, row_block=row_block,
                        shifted=shifted, vectors=vectors,
                    )  # fmt: skip
                if row_block <= rows:
                    break


def _job_bytes(window: Window, row_block: int) -> int:
    """Return the bytes of a job: the rows it reads, its window, and its results."""
    problem = window.problem
    sources = window.rows(row_block) * problem.channels * problem.lanes_in
    results = row_block * problem.out_channels * problem.lanes_out
    return 4 * (sources + window.size(row_block) + results)


def _sets_in_reach(seen: int, pitch: int) -> float:
    """Return the share of the L1 cache's sets that hold `seen` of every `pitch` floats."""
    lines = -(-seen // CACHE_LINE_FLOATS)
    repeats = math.gcd(-(-pitch // CACHE_LINE_FLOATS), L1_SETS)
    return min(lines / repeats, 1.0)


def _split_rows(
    problem: Conv2d, window: Window, rows: int, floats: int, blocks: int, cpu: CpuProfile
) -> tuple[int, int]:
    """Return output rows of a job, whose window should have `floats` at most, and chunks.

    Of the splits that give all cores equal shares, the one that gathers least.
    """

    def cost(split: tuple[int, int]) -> float:
        row_block, chunks = split
        row_blocks = -(-problem.out_height // row_block)
        jobs = problem.batch * row_blocks * chunks
        imbalance = -(-jobs // cpu.cores) * cpu.cores / jobs
        channels = -(-blocks // chunks) * chunks / blocks
        padding = row_blocks * row_block / problem.out_height
        gathered = row_blocks * chunks * window.rows(row_block) * window.row_pitch / window.width
        outputs = blocks * problem.out_height * window.vectors
        work = outputs * problem.channels * math.prod(problem.kernel)
        return imbalance * (channels * padding * work + gathered * GATHER_CYCLES)

    sizes = [
        -(-problem.out_height // count // rows) * rows for count in range(1, problem.out_height + 1)
    ]
    fitting = [size for size in sizes if size and window.size(size) <= floats] or [rows]
    splits = [(size, chunks) for size in fitting for chunks in {1, min(cpu.cores, blocks)}]
    return min(splits, key=cost)


def _lines_per_load(window: Window) -> float:
    """Return how many cache lines a vector load touches on average."""
    taps = [
        (window.offset(0, 0, dx) - window.lead) % window.width
        for dx in range(window.problem.kernel[1])
    ]
    return 1 + sum(map(bool, taps)) / len(taps) * window.width / CACHE_LINE_FLOATS

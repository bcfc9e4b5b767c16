"""Sparse convolutions: how their weights and rows are cut, and what that costs.

The constants were measured on the 3x3 layers of ResNet-50 on a Xeon with AVX-512 and 48 KB of L1
cache, in its AVX-512 and AVX2 code.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import L1_SETS, line_elements
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.sparse import SparseConvTiling
from tvm_sparse.sizes.conv2d import Conv2d, Window
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.gathering import GATHER_CYCLES, lines_per_load
from tvm_sparse.tilings.jobs import waiting
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.registers import MOST_ROWS, accumulates, sparse_accumulators
from tvm_sparse.tilings.sparse_groups import GROUP_CYCLES, OFFSETS_PER_LOAD, nonzero_cycles

PARTIAL_SUM_CYCLES = 2.0
"""Cycles to load and store a vector of partial sums that lies in the L2 cache."""

PARTIAL_SUM_MISS_CYCLES = 10.0
"""Further cycles for a vector of partial sums that comes from the L3 cache."""

PARTIAL_SUM_L2_SHARE = 0.3
"""Share of the L2 cache that partial sums and window of a job may fill before sums are lost to the
L3 cache; the more they exceed it, the more sums are lost."""

HALF_GATHER_CYCLES = 0.5
"""Cycles to gather a vector of float16, fitted to 107 tilings on a Xeon with AVX512-FP16."""

HALF_L2_CYCLES = 0.7
"""Cycles to bring a vector of a float16 window from L2, where the window of a job is kept; fitted
to the same tilings."""

L1_SHARE = 0.8
"""Share of the L1 cache for the window of a tile; the weights stream through the rest."""

JOB_L2_SHARE = 0.8
"""Share of the L2 cache for all that a job touches, besides weights."""

MOST_NEON_SUMS = 20
"""Most sums of several rows in float16 that leave NEON's registers room for inputs and weights."""

STEP_COST = 0.015
"""Share of time that every further row of a tile is taken to cost in tensor columns, where stages
advance, and keep rows for one another, by whole tiles."""


class SparseConv2dFamily(Family[Conv2d, SparseConvTiling]):
    """Sparse convolutions of one group."""

    name = "sparse_conv2d"
    is_sparse = True
    sizes, tiling = Conv2d, SparseConvTiling

    def refusal_of_sizes(self, problem: Conv2d, cpu: CpuProfile) -> str:
        """Return a reason if there are several groups, or rows that the offsets cannot reach."""
        if problem.groups > 1:
            return "a convolution in groups has no sparse kernel"
        if next(_possible(problem, cpu), None) is None:
            return f"no sparse kernel reaches the inputs of {problem}"
        return ""

    def cuts_evenly(self, problem: Conv2d, tiling: SparseConvTiling) -> bool:
        """Return whether a tiling cuts the channels of a layer into equal chunks."""
        return problem.out_channels % tiling.chunks == 0

    def default(self, layer: Layer[Conv2d], cpu: CpuProfile) -> SparseConvTiling:
        """Return the tiling of the fewest cycles, with `STEP_COST` for the rows of its tile.

        Raises
        ------
        ValueError
            If the family refuses the layer: one with several groups, or one in which 16-bit
            offsets do not even reach the rows of one input channel.
        """
        return _default(layer.problem, layer.density, cpu)

    def tilings(self, layer: Layer[Conv2d], cpu: CpuProfile) -> Iterator[SparseConvTiling]:
        """Yield the possible tilings, with half and twice the group, and with half the K block."""
        for tiling in _possible(layer.problem, cpu):
            for group in {tiling.group, max(tiling.group // 2, 1), tiling.group * 2}:
                if accumulates(group * tiling.rows * tiling.vectors, cpu):
                    yield replace(tiling, group=group)
            if tiling.k_block > 1:
                yield replace(tiling, k_block=-(-tiling.k_block // 2))

    def cycles(self, layer: Layer[Conv2d], tiling: SparseConvTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        They are those of the non-zeros, of the groups, of the partial sums and of the gathering;
        cores that wait for others in the end count as if they worked.
        """
        problem = layer.problem
        channels = min(tiling.k_block, problem.channels)
        window = Window(problem, tiling.width, channels, tiling.shifted)
        k_blocks = -(-problem.channels // channels)
        row_blocks = problem.batch * -(-problem.out_height // tiling.row_block)
        tiles = row_blocks * -(-tiling.row_block // tiling.rows)

        taps = problem.channels * math.prod(problem.kernel)
        nonzeros = layer.density * problem.out_channels * taps
        vectors = tiling.rows * window.vectors
        pieces = -(-window.vectors // tiling.vectors)
        lines = lines_per_load(window)
        per_nonzero = nonzero_cycles(vectors, pieces, lines, cpu, problem.dtype, tiling.group)
        groups = -(-problem.out_channels // tiling.group) * k_blocks * pieces

        gathered = window.rows(tiling.row_block) * window.row_pitch * k_blocks // tiling.width
        jobs = row_blocks * tiling.chunks
        partial_sums = (k_blocks - 1) * problem.out_channels * vectors
        job_sums = tiling.row_block * problem.out_channels // tiling.chunks * problem.lanes_out
        held = problem.dtype.bytes * (window.size(tiling.row_block) + job_sums) / cpu.l2_bytes
        missing = min(max(held - PARTIAL_SUM_L2_SHARE, 0), 1)
        per_sum = PARTIAL_SUM_CYCLES + missing * PARTIAL_SUM_MISS_CYCLES
        compute = tiles * (nonzeros * per_nonzero + groups * GROUP_CYCLES + partial_sums * per_sum)
        gather = jobs * gathered * GATHER_CYCLES
        if problem.dtype == DType.FLOAT16:
            gather = jobs * gathered * HALF_GATHER_CYCLES
            if tiling.row_block > tiling.rows:  # the rows of a tile come from L2
                seen = window.rows(tiling.rows) * window.row_pitch * k_blocks // tiling.width
                gather += tiles * seen * HALF_L2_CYCLES
        return waiting(jobs, cpu) * (compute + gather)

    def register_tile(self, tiling: SparseConvTiling) -> tuple[object, ...]:
        """Return channels of a group, rows, vectors, and whether the window is shifted."""
        return tiling.group, tiling.rows, tiling.vectors, tiling.shifted


SPARSE_CONV2D_FAMILY = SparseConv2dFamily()


@functools.cache
def _default(problem: Conv2d, density: float, cpu: CpuProfile) -> SparseConvTiling:
    family, layer = SPARSE_CONV2D_FAMILY, Layer(problem, density)
    reason = family.refusal(layer, cpu)
    if reason:
        raise ValueError(reason)

    def cost(tiling: SparseConvTiling) -> float:
        coarse = 1 + STEP_COST * (tiling.rows - 1)
        return coarse * family.cycles(layer, tiling, cpu)

    return min(_possible(problem, cpu), key=cost)


def _possible(problem: Conv2d, cpu: CpuProfile) -> Iterator[SparseConvTiling]:
    """Yield the tilings that the caches and the registers allow."""
    width = cpu.vector_width(problem.lanes_out, problem.dtype)
    accumulators = sparse_accumulators(cpu)
    elements = int(L1_SHARE * cpu.l1_bytes) // problem.dtype.bytes
    for shifted, rows in itertools.product((False, True), range(1, MOST_ROWS + 1)):
        one = Window(problem, width, 1, shifted)
        # Pieces of a row: of about equal size, and few enough vectors for the registers.
        sizes = {-(-one.vectors // pieces) for pieces in range(1, one.vectors + 1)}
        for vectors in sizes:
            if rows > problem.out_height or rows * vectors > accumulators:
                continue
            group = accumulators // (rows * vectors)
            group = max(group, 2) if vectors * rows * 2 <= cpu.vector_registers - 2 else group
            group = _of_whole_loads(group, rows * vectors, cpu, problem.dtype)
            if rows > 1 and _spills(group * rows * vectors, cpu, problem.dtype):
                continue
            seen = min(one.pitch, (vectors + (not shifted)) * width)
            in_reach = _sets_in_reach(seen, one.pitch, line_elements(problem.dtype))
            held = int(elements * in_reach)
            reach = min(held // (one.rows(rows) * len(one.origins) * seen), problem.channels)
            taps = one.rows(1) * one.row_pitch + one.lead + max(problem.width, width)
            reach = min(reach, ((1 << 16) - 1) // taps)
            if reach < 1:
                continue
            k_block = -(-problem.channels // -(-problem.channels // reach))
            window = Window(problem, width, k_block, shifted)
            counts = range(1, problem.out_height + 1)
            sizes_of_blocks = (-(-problem.out_height // count // rows) * rows for count in counts)
            for row_block in dict.fromkeys(sizes_of_blocks):
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


def _spills(sums: int, cpu: CpuProfile, dtype: DType) -> bool:
    """Return whether compilers spill so many sums of several rows, as LLVM does for NEON."""
    return dtype == DType.FLOAT16 and cpu.weights_per_load(dtype) > 1 and sums > MOST_NEON_SUMS


def _of_whole_loads(group: int, vectors: int, cpu: CpuProfile, dtype: DType) -> int:
    """Return the group whose offsets come with whole loads, if the registers hold its sums."""
    whole = max(group // OFFSETS_PER_LOAD, 1) * OFFSETS_PER_LOAD
    # On ARM the inputs need registers, too.
    most = (
        cpu.vector_registers - 4 if cpu.weights_per_load(dtype) == 1 else sparse_accumulators(cpu)
    )
    held = dtype == DType.FLOAT16 and whole * vectors <= most
    return whole if held else group


def _job_bytes(window: Window, row_block: int) -> int:
    """Return the bytes of a job: the rows it reads, its window, and its results."""
    problem = window.problem
    sources = window.rows(row_block) * problem.channels * problem.lanes_in
    results = row_block * problem.out_channels * problem.lanes_out
    return problem.dtype.bytes * (sources + window.size(row_block) + results)


def _sets_in_reach(seen: int, pitch: int, line: int) -> float:
    """Return the share of the L1 cache's sets that hold `seen` of every `pitch` elements.

    A cache line has `line` elements.
    """
    lines = -(-seen // line)
    repeats = math.gcd(-(-pitch // line), L1_SETS)
    return min(lines / repeats, 1.0)

"""Sparse linear layers: how their weights and rows are cut, and what that costs.

The best tiling hardly depends on the density.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import FMA_PER_CYCLE
from tvm_sparse.dtypes import DType, longest_sum
from tvm_sparse.formats.sparse import OFFSET_UNIT, SparseLayout, SparseTiling
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.jobs import waiting
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.registers import MOST_ROWS, accumulates, sparse_accumulators
from tvm_sparse.tilings.sparse_groups import GROUP_CYCLES, nonzero_cycles

SPARSE_SHARE = 0.48
"""Share of the FMA peak that the inner loop reaches per non-zero with its default tile; loads are
the limit. Measured on a Xeon: 0.45 to 0.50 with AVX-512, 0.55 to 0.60 with AVX2."""

NEON_SPARSE_SHARE = 0.65
"""Share of the FMA peak per non-zero on 64-bit ARM, of cores that load a vector for every
multiply-add. An estimate: llvm-mca gives 0.72 for Cortex-A72, Cortex-A76 and Neoverse N1
(``benchmarks/board_estimates.py``); of the 0.47 that it gives for AVX-512, nine tenths were
measured."""

L1_SHARE = 0.75
"""Share of the L1 cache for a K block of activations; the weights stream through the rest."""

LEAST_WINDOW = 96
"""Fewest output channels that are sorted together for `cut_in_parts`: of fewer, the members of a
group have numbers of non-zeros that differ more."""

WIDE_VECTORS = 4
"""Vectors of a tile in float16 with AVX-512, if the weight is dense enough."""

WIDE_DENSITY = 0.125
"""Density from which on a tile has `WIDE_VECTORS` vectors. It takes a fifth fewer loads than one of
two vectors, but its K blocks are half as deep: groups end sooner, and partial sums are added more
often. Measured on a Xeon with AVX512-FP16 and AMX, on six layers of BERT-base and ResNet-50: the
wide tile takes 0.86 to 0.96 of the time with 80 % of zeros, 0.87 to 0.97 with 85 %, as long with
90 %, and up to 1.2 times as long with 95 %."""

GROUPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""Output channels of a group that the tuner tries."""


class SparseLinearFamily(Family[Linear, SparseTiling]):
    """Sparse linear layers."""

    name = "sparse_linear"
    is_sparse = True
    sizes, tiling = Linear, SparseTiling

    def refusal_of_sizes(self, problem: Linear, cpu: CpuProfile) -> str:
        """Return that panels of one lane have another kernel; an empty string for other panels."""
        del cpu
        return "" if problem.lanes > 1 else "the kernel takes panels of several lanes"

    def cuts_evenly(self, problem: Linear, tiling: SparseTiling) -> bool:
        """Return whether a tiling cuts the channels of a layer into equal chunks."""
        return problem.n % tiling.chunks == 0

    def default(self, layer: Layer[Linear], cpu: CpuProfile) -> SparseTiling:
        """Return a group that fills the accumulators, and a K block that stays in the L1 cache.

        Channels are cut into chunks only where there are too few rows to give all cores equal
        shares.
        """
        problem = layer.problem
        n, k, rows, lanes = problem.n, problem.k, problem.rows, problem.lanes
        vectors = lanes // cpu.vector_width(lanes, problem.dtype)
        tile = _wide_tile(layer, vectors, cpu) or _row_tile(rows, vectors)
        group = max(2 if tile > 1 else 4, sparse_accumulators(cpu) // (vectors * tile))
        reach = min(
            _l1_channels(tile * lanes, problem.dtype, cpu),
            (OFFSET_UNIT << 16) // lanes,
            int(longest_sum(problem.dtype) / max(layer.density, 1 / k)),
        )
        k_block = -(-k // -(-k // max(reach, 1)))
        chunks = 1 if rows % cpu.cores == 0 else cpu.cores // math.gcd(cpu.cores, -(-rows // tile))
        return SparseTiling(group, k_block, chunks if n % chunks == 0 else 1, rows=tile)

    def tilings(self, layer: Layer[Linear], cpu: CpuProfile) -> Iterator[SparseTiling]:
        """Yield tiles that hide a multiply-add's latency, with K blocks of about the L1 cache."""
        problem, default = layer.problem, self.default(layer, cpu)
        vectors = problem.lanes // cpu.vector_width(problem.lanes, problem.dtype)
        for rows in range(1, min(problem.rows, MOST_ROWS) + 1):
            reach = _l1_channels(rows * problem.lanes, problem.dtype, cpu)
            depths = {
                -(-problem.k // -(-problem.k // max(min(depth, problem.k), 1)))
                for depth in (reach // 2, reach, 2 * reach)
            }
            for group, depth, chunks in itertools.product(GROUPS, depths, {1, cpu.cores}):
                if problem.n % chunks or not accumulates(group * rows * vectors, cpu):
                    continue
                tiling = replace(default, group=group, k_block=depth, chunks=chunks, rows=rows)
                try:
                    SparseLayout.linear(problem.n, problem.k, problem.lanes, tiling)
                except ValueError:  # its inputs are out of reach of the offsets
                    continue
                yield tiling

    def cycles(self, layer: Layer[Linear], tiling: SparseTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        They are the multiply-adds of the non-zeros at the measured share of the peak, and
        `GROUP_CYCLES` for every group in a K block. The share was measured with the default tiling.
        Another tiling changes it in proportion to the cycles of its inner loops, and to the time in
        which cores wait for one another at the end of the layer.
        """
        problem, default = layer.problem, self.default(layer, cpu)
        n, k, rows, lanes = problem.n, problem.k, problem.rows, problem.lanes
        groups = -(-rows // tiling.rows) * -(-n // tiling.group) * -(-k // tiling.k_block)
        multiply_adds = (
            layer.density * rows * n * k * lanes / cpu.vector_width(lanes, problem.dtype)
        )
        loads = _loop_cycles(problem, tiling, cpu) / _loop_cycles(problem, default, cpu)
        share = sparse_share(cpu, problem.dtype)
        work = multiply_adds / FMA_PER_CYCLE / share * loads + groups * GROUP_CYCLES
        return work * (_waiting(problem, tiling, cpu) / _waiting(problem, default, cpu))

    def register_tile(self, tiling: SparseTiling) -> tuple[object, ...]:
        """Return channels of a group and rows."""
        return tiling.group, tiling.rows


SPARSE_LINEAR_FAMILY = SparseLinearFamily()


def cut_in_parts(tiling: SparseTiling, n: int, most: int) -> SparseTiling:
    """Return a tiling with windows that let `most` cores, or fewer, share the channels of a row.

    Parameters
    ----------
    tiling : SparseTiling
        Its windows may become smaller. With chunks, cores share the channels in any case.
    n : int
        Output channels.
    most : int
        The number of cores.
    """
    for parts in range(most if tiling.chunks == 1 else 1, 1, -1):
        channels, rest = divmod(n, parts)
        if rest or channels % tiling.group or channels < LEAST_WINDOW:
            continue
        windows = -(-channels // tiling.window)
        while channels % windows:
            windows += 1
        if channels // windows >= LEAST_WINDOW:
            return replace(tiling, window=channels // windows)
    return tiling


def parts_of(layout: SparseLayout, most: int) -> int:
    """Return into how many equal parts, at most `most`, cores can cut the channels of a row.

    A part is a run of groups that has the same channels in all K blocks.
    """
    tiling = layout.tiling

    def is_cut(parts: int) -> bool:
        channels, rest = divmod(layout.n, parts)
        is_whole = layout.k_blocks == 1 or channels % tiling.window == 0
        return rest == 0 and channels % tiling.group == 0 and is_whole

    parts = range(min(most, layout.n), 1, -1) if tiling.chunks == 1 else ()
    return next(filter(is_cut, parts), 1)


def sparse_share(cpu: CpuProfile, dtype: DType) -> float:
    """Return the share of the FMA peak that a sparse linear layer reaches per non-zero.

    On ARM one load brings several weights, and another one several offsets, so that nearly all
    loads are those of the activations. They are the limit where cores load fewer vectors than they
    multiply: half as many in the Cortex-A53, three quarters in the Neoverse V1.

    The shares were measured, or estimated, with float32. With float16 they hold too: 0.47 to 0.53
    with AVX-512, where a load brings four offsets.
    """
    if cpu.weights_per_load(dtype) == 1:
        return SPARSE_SHARE
    return NEON_SPARSE_SHARE * min(cpu.loads_per_multiply_add, 1.0)


def _row_tile(rows: int, vectors: int) -> int:
    """Return how many rows are computed together, so that loading a weight serves two vectors.

    Preferably a divisor of the rows.
    """
    if vectors > 1 or rows == 1:
        return 1
    return next((tile for tile in range(2, MOST_ROWS + 1) if rows % tile == 0), 2)


def _wide_tile(layer: Layer[Linear], vectors: int, cpu: CpuProfile) -> int | None:
    """Return the rows of a tile of `WIDE_VECTORS` vectors, or None if it is not worth it.

    Every core gets whole tiles. If cores shared the channels of a tile, each would read all inputs,
    of which the others computed a part: BERT-base at 128 tokens on two cores gains nothing.
    """
    rows, dtype = layer.problem.rows, layer.problem.dtype
    is_wide = dtype == DType.FLOAT16 and cpu.weights_per_load(dtype) == 1
    if not is_wide or layer.density <= WIDE_DENSITY or isinstance(rows, Extent):
        return None
    tile, rest = divmod(WIDE_VECTORS, vectors)
    fits = rest == 0 and rows % tile == 0 and rows // cpu.cores >= tile
    return tile if fits and tile > 1 else None


def _l1_channels(elements: int, dtype: DType, cpu: CpuProfile) -> int:
    """Return the input channels of a K block in the L1 cache, of `elements` activations each."""
    return int(L1_SHARE * cpu.l1_bytes) // dtype.bytes // elements


def _loop_cycles(problem: Linear, tiling: SparseTiling, cpu: CpuProfile) -> float:
    """Return the cycles of the inner loops for one non-zero of the weight."""
    vectors = problem.lanes // cpu.vector_width(problem.lanes, problem.dtype) * tiling.rows
    return -(-problem.rows // tiling.rows) * nonzero_cycles(vectors, 1, 1, cpu, problem.dtype)


def _waiting(problem: Linear, tiling: SparseTiling, cpu: CpuProfile) -> float:
    """Return the time of all cores until the last job ends, as a multiple of the work."""
    if tiling.chunks == 1 and problem.rows % cpu.cores == 0:
        return 1.0  # each core gets an equal run of rows, which need not be whole tiles
    return waiting(-(-problem.rows // tiling.rows) * tiling.chunks, cpu)

"""Which kernel a linear layer gets, and how its weight is tiled, for any CPU profile.

Nothing here touches the CPU, so cross-compiling works. The rates were measured with
``benchmarks/kernels.py`` on a Xeon with AVX-512 and 48 KB of L1, in its AVX-512 and AVX2 code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import FMA_PER_CYCLE, LAUNCH_CYCLES
from tvm_sparse.formats.sparse import OFFSET_UNIT, SparseTiling

DENSE_SHARE = 0.85
"""Share of the FMA peak that the dense kernel reaches (measured: 0.82 to 0.88)."""

SPARSE_SHARE = 0.48
"""Share of the FMA peak that the sparse kernel's inner loop reaches per non-zero (measured: 0.45
to 0.50 with AVX-512, 0.55 to 0.60 with AVX2; loads are the limit)."""

NEON_SPARSE_SHARE = 0.65
"""The same on 64-bit ARM, of cores that load a vector for every multiply-add. An estimate: llvm-mca
gives 0.72 for Cortex-A72, Cortex-A76 and Neoverse N1 (``benchmarks/board_estimates.py``); of the
0.47 that it gives for AVX-512, nine tenths were measured."""

GROUP_CYCLES = 30
"""What a group costs in a K block besides its multiply-adds: pointers, partial sums, loop exit."""

L1_SHARE = 0.75
"""Share of the L1 cache for a K block of activations; the weights stream through the rest."""

MOST_ROWS = 8
"""Rows of a tile: more of them would leave registers for one output channel only."""


def sparse_share(cpu: CpuProfile) -> float:
    """Return the share of the FMA peak that a sparse linear layer reaches per non-zero.

    On ARM one load brings four weights, another four offsets, so that hardly any load besides those
    of the activations is left. Where cores load fewer vectors than they multiply (half as many in
    the Cortex-A53, three quarters in the Neoverse V1), these are the limit.
    """
    if cpu.weights_per_load == 1:
        return SPARSE_SHARE
    return NEON_SPARSE_SHARE * min(cpu.loads_per_multiply_add, 1.0)


def fits_registers(channels: int, vectors: int, cpu: CpuProfile) -> bool:
    """Return whether the registers hold a dense tile: sums, activations and weights.

    A register holds one weight in all lanes; on ARM four, and then compilers load the weights of
    all channels at once.
    """
    weights = 1 if cpu.weights_per_load == 1 else -(-channels // cpu.weights_per_load)
    return channels * vectors + vectors + weights <= cpu.vector_registers


def most_channels(vectors: int, cpu: CpuProfile) -> int:
    """Return the most output channels of a dense tile of so many vectors."""
    return max(c for c in range(1, cpu.vector_registers) if fits_registers(c, vectors, cpu))


@dataclass(frozen=True)
class DenseTiling:
    """Register tile of a dense linear layer.

    Attributes
    ----------
    channels : int
        Output channels of a tile.
    vectors : int
        Vectors of lanes of a tile.
    """

    channels: int
    vectors: int


@dataclass(frozen=True)
class Choice:
    """Sparse or dense, and why.

    Attributes
    ----------
    sparse : bool
        Whether the sparse kernel is expected to be worth it.
    reason : str
        One sentence for people.
    sparse_cycles, dense_cycles : float
        Expected cycles of both kernels, summed over the cores.
    """

    sparse: bool
    reason: str
    sparse_cycles: float
    dense_cycles: float


def dense_tiling(n: int, cpu: CpuProfile) -> DenseTiling:
    """Choose the register tile of a dense layer with `n` output channels.

    Two vectors wide, so that loading a weight serves two multiply-adds; as many channels as the
    registers hold besides the two vectors and the weights, unless fewer divide `n` better.
    """
    vectors = 2
    most = most_channels(vectors, cpu)
    if n <= most:
        return DenseTiling(n, vectors)
    sizes = range(most, most // 2, -1)
    return DenseTiling(min(sizes, key=lambda channels: -n % channels), vectors)


def sparse_tiling(n: int, k: int, rows: int, lanes: int, cpu: CpuProfile) -> SparseTiling:
    """Choose the tiling of a sparse layer; the best one hardly depends on the density.

    Groups take half to three quarters of the registers: enough accumulators to hide the latency of
    a multiply-add, few enough that a group's channels are alike. Channels are cut into chunks only
    where there are too few rows to give all cores equal shares.
    """
    accumulators = 16 if cpu.vector_registers >= 32 else 12
    vectors = lanes // cpu.vector_width(lanes)
    tile = row_tile(rows, vectors)
    group = max(2 if tile > 1 else 4, accumulators // (vectors * tile))
    reach = min(int(L1_SHARE * cpu.l1_bytes) // 4 // tile, OFFSET_UNIT << 16) // lanes
    k_block = -(-k // -(-k // max(reach, 1)))
    chunks = 1 if rows % cpu.cores == 0 else cpu.cores // math.gcd(cpu.cores, -(-rows // tile))
    return SparseTiling(group, k_block, chunks if n % chunks == 0 else 1, rows=tile)


def row_tile(rows: int, vectors: int) -> int:
    """Return how many rows are computed together, so that loading a weight serves two vectors.

    Preferably a divisor of the rows.
    """
    if vectors > 1 or rows == 1:
        return 1
    return next((tile for tile in range(2, MOST_ROWS + 1) if rows % tile == 0), 2)


def sparse_pays(n: int, k: int, density: float, rows: int, lanes: int, cpu: CpuProfile) -> Choice:
    """Choose between the sparse and the dense kernel for a layer with a constant weight."""
    tiling = sparse_tiling(n, k, rows, lanes, cpu)
    sparse = sparse_cycles(n, k, density, rows, lanes, tiling, cpu)
    return choose(density, sparse, dense_cycles(n, k, rows, lanes, cpu))


def sparse_cycles(
    n: int, k: int, density: float, rows: int, lanes: int, tiling: SparseTiling, cpu: CpuProfile
) -> float:
    """Return the expected cycles of a sparse layer, summed over the cores."""
    groups = -(-rows // tiling.rows) * -(-n // tiling.group) * -(-k // tiling.k_block)
    multiply_adds = density * rows * n * k * lanes / cpu.vector_width(lanes)
    return multiply_adds / FMA_PER_CYCLE / sparse_share(cpu) + groups * GROUP_CYCLES


def dense_cycles(n: int, k: int, rows: int, lanes: int, cpu: CpuProfile) -> float:
    """Return the expected cycles of a dense layer, summed over the cores."""
    return rows * n * k * lanes / cpu.vector_width(lanes) / FMA_PER_CYCLE / DENSE_SHARE


def choose(density: float, sparse: float, dense: float) -> Choice:
    """Return the choice between kernels of `sparse` and `dense` cycles."""
    zeros = f"{1 - density:.0%} zeros"
    if dense - sparse >= LAUNCH_CYCLES:  # a smaller gain is not worth another kernel
        return Choice(True, f"{zeros}: {dense / sparse:.1f}x faster sparse", sparse, dense)
    if dense > sparse:
        return Choice(False, f"{zeros}, but too small a layer to gain from it", sparse, dense)
    return Choice(False, f"{zeros}: {sparse / dense:.1f}x slower sparse", sparse, dense)

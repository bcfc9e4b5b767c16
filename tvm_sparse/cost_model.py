"""Which kernel a linear layer gets, and how its weight is tiled, for any CPU profile.

Nothing here touches the CPU, so cross-compiling works.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_sparse.formats import OFFSET_UNIT, SparseTiling
from tvm_sparse.targets import CpuProfile

FMA_PER_CYCLE = 2
FLOATS_PER_CACHE_LINE = 16

DENSE_SHARE = 0.75
"""Share of the FMA peak that `schedules.linear` reaches."""

SPARSE_SHARE = 0.40
"""Share of the FMA peak per non-zero that `schedules.sparse_linear` reaches."""

GROUP_CYCLES = 30
"""Cycles that a group of output channels costs in a K block besides its multiply-adds."""


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
        Whether the sparse kernel is expected to be faster.
    reason : str
        One sentence for people.
    sparse_cycles, dense_cycles : float
        Expected cycles of both kernels on one core.
    """

    sparse: bool
    reason: str
    sparse_cycles: float
    dense_cycles: float


def dense_tiling(n: int, cpu: CpuProfile) -> DenseTiling:
    """Choose the register tile of a dense layer with `n` output channels.

    Two vectors wide, so that loading a weight serves two multiply-adds; as many channels as the
    registers hold besides the two vectors and one weight, unless fewer divide `n` better.
    """
    vectors = 2
    most = (cpu.vector_registers - vectors - 1) // vectors
    if n <= most:
        return DenseTiling(n, vectors)
    sizes = range(most, most // 2, -1)
    return DenseTiling(min(sizes, key=lambda c: -(-n // c) * c), vectors)


def sparse_tiling(n: int, k: int, density: float, lanes: int, cpu: CpuProfile) -> SparseTiling:
    """Choose the tiling of a sparse layer.

    The part of a panel that belongs to a K block fits in the L1 cache, the weights of a chunk in
    half of the L2 cache, where they stay for all rows. The number of chunks is a multiple of the
    number of cores, so that all cores get equal shares, if the size of the layer allows it.
    """
    group = 4 * max(1, cpu.vector_lanes * 2 // lanes)
    reach = min(cpu.l1_bytes // (4 * lanes), (OFFSET_UNIT << 16) // lanes)
    blocks = -(-k // max(reach, 1))
    k_block = -(-k // blocks)
    chunk_bytes = 6 * density * n * k / max(cpu.cores, 1)
    pieces = max(1, -(-int(chunk_bytes) // (cpu.l2_bytes // 2)))
    chunks = next(
        (c for c in range(cpu.cores * pieces, n // group + 1, cpu.cores) if n % (c * group) == 0), 1
    )
    return SparseTiling(group=group, k_block=k_block, chunks=chunks)


def sparse_pays(n: int, k: int, density: float, rows: int, lanes: int, cpu: CpuProfile) -> Choice:
    """Choose between the sparse and the dense kernel for a layer with a constant weight."""
    vectors = lanes / cpu.vector_lanes
    tiling = sparse_tiling(n, k, density, lanes, cpu)
    fma = rows * n * k * vectors / FMA_PER_CYCLE
    groups = rows * -(-n // tiling.group) * -(-k // tiling.k_block)
    dense = fma / DENSE_SHARE
    sparse = fma * density / SPARSE_SHARE + groups * GROUP_CYCLES
    pays = sparse < dense
    verb = "saves" if pays else "would cost"
    share = abs(1 - sparse / dense) if dense else 0.0
    return Choice(
        pays,
        f"{1 - density:.0%} zeros: the sparse kernel {verb} {share:.0%} of the dense one's time",
        sparse,
        dense,
    )

"""Register tiles: how many accumulators a kernel keeps, and loops over tiles of about that size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

if TYPE_CHECKING:
    from collections.abc import Callable

    from tvm.ir import Expr

    from tvm_sparse.cpu.profile import CpuProfile

MOST_ACCUMULATORS = 24
"""Most accumulators of a register tile; more gain nothing on a Xeon with 32 vector registers."""


def tile_height(vectors: int, cpu: CpuProfile) -> int:
    """Return how many rows of `vectors` accumulators fit in the registers.

    Beside them lie a row of source vectors and one scalar that they are multiplied by.
    """
    spare = cpu.vector_registers - vectors - 1
    return max(min(spare, MOST_ACCUMULATORS) // vectors, 1)


def each_tile(total: int, limit: int, visit: Callable[[Expr, int], None]) -> None:
    """Call ``visit(start, count)`` for tiles of at most `limit`, of sizes as equal as can be."""
    tiles = -(-total // limit)
    small, larger = divmod(total, tiles)
    for first, repeats, count in ((0, larger, small + 1), (larger, tiles - larger, small)):
        if repeats:
            with T.serial(T.int64(0), T.int64(repeats)) as i:
                visit(first * (small + 1) + i * count, count)

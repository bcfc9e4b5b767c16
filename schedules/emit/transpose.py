"""Transposes of square tiles in vector registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tvm.ir import Expr

BLOCK = 4
"""Values of 32 bits in a block of 128 bits, inside of which x86 shuffles the fastest."""


def transpose(rows: Sequence[Expr]) -> list[Expr]:
    """Return the transpose of a tile: n vectors of n values, n a power of two from 4 on.

    Each step interleaves pairs of vectors, in runs of 1, 2, 4, ... values. The first two steps
    transpose 4 x 4 blocks and leave vectors 1 and 2 of each block exchanged. Later steps move
    blocks::

        a0 a1 a2 a3        a0 b0 a1 b1        a0 b0 c0 d0
        b0 b1 b2 b3   ->   a2 b2 a3 b3   ->   a2 b2 c2 d2
        c0 c1 c2 c3        c0 d0 c1 d1        a1 b1 c1 d1
        d0 d1 d2 d3        c2 d2 c3 d3        a3 b3 c3 d3

    The steps are bound to variables in front of the statement that is being built.
    """
    n = len(rows)
    vectors = list(rows)
    run = 1
    while run < n:
        low, high = _halves_interleaved(n, run)
        for i in range(n):
            if not i & run:
                pair = [vectors[i], vectors[i + run]]
                vectors[i] = T.bind(T.Shuffle(pair, low))
                vectors[i + run] = T.bind(T.Shuffle(pair, high))
        run *= 2
    exchanged = (0, 2, 1, 3)
    return [vectors[i - i % BLOCK + exchanged[i % BLOCK]] for i in range(n)]


def _halves_interleaved(n: int, run: int) -> tuple[list[int], list[int]]:
    """Return the indices that interleave the low, and the high, halves of each block of a pair."""
    block = max(BLOCK, 2 * run)

    def indices(half: int) -> list[int]:
        starts = [
            start + half + r for start in range(0, n, block) for r in range(0, block // 2, run)
        ]
        return [s + vector + e for s in starts for vector in (0, n) for e in range(run)]

    return indices(0), indices(block // 2)

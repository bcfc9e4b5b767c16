"""The loops of an attention's job whose numbers of queries and keys are known at run time only.

The keys of whole blocks are visited as in `AttentionJob`. Those of the last block are visited in
small tiles, of which the last one may reach behind the last key: the memory of the scores has room
for that, and such scores are -inf. So results are the same, bit by bit, as if the numbers were
known before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import HEAP_LEAST_BYTES, number, opaque
from tvm_sparse.schedules.emit.sizes import factor, size
from tvm_sparse.schedules.emit.tiles import each_tile
from tvm_sparse.schedules.operators.attention_job import AttentionJob, Element

if TYPE_CHECKING:
    from tvm.ir import Expr

SMALL_TILES = (8, 4, 2, 1)
"""Keys of a tile in the last block, the largest first; they divide the lanes of panels."""


class SizedAttentionJob(AttentionJob):
    """The loops of one head and one block of queries; `tokens` and `key_tokens` may be extents.

    Parameters are those of `AttentionJob`.
    """

    def score_memory(self) -> Expr:
        """Allocate the scores of all keys, and of those behind the last one in its tile."""
        count = size(self.key_tokens) * self.lanes + self.lanes * self.lanes
        least = HEAP_LEAST_BYTES // self.dtype.bytes
        return T.alloc_buffer((T.max(count, T.int64(least)),), self.dtype)

    def key_bias(self, bias: Callable[[Expr], Expr]) -> Element:
        """Return a bias that is the same for all queries, as an element of the scores."""
        last = factor(self.key_tokens) - 1
        return super().key_bias(lambda key: bias(opaque(T.min(key, last))))

    def gather_bias(self, bias: Callable[[Expr, Expr], Expr], block: Expr) -> Element:
        """Copy ``bias(query, key)`` of a block of queries into the scores."""
        first, last = block * self.lanes, factor(self.tokens) - 1
        with T.serial(T.int64(0), size(self.key_tokens)) as key:
            for lane in range(self.lanes):
                value = bias(opaque(T.min(first + lane, last)), key)
                T.buffer_store(self.scores, self.as_score(value), [key * self.lanes + lane])
        return lambda key, u: self.scores[self.part(key, u)]

    def counted(self, score: Expr, key: Expr) -> Expr:
        """Return a score, or -inf behind the last key."""
        lowest = self.across(number(-math.inf, self.dtype))
        return T.Select(key < self.key_count(), score, lowest)

    def small_tile(self) -> int:
        """Return the keys of a tile in the last block."""
        return next(n for n in SMALL_TILES if n <= self.tile and self.lanes % n == 0)

    def each_key_tile(
        self,
        key_panel: Callable[[Expr], Any],
        visit: Callable[[Expr, Callable[[Expr], Expr], Expr, int], None],
    ) -> None:
        """Call ``visit(block, panel, start, count)`` for tiles of keys that cover all of them."""
        small = self.small_tile()

        def visit_keys(block: Expr, keys: int | Expr) -> None:
            panel = self.factors(key_panel(block))
            if isinstance(keys, int):
                each_tile(keys, self.tile, lambda start, count: visit(block, panel, start, count))
                return
            with T.serial(T.int64(0), (keys + (small - 1)) // small) as tile:
                visit(block, panel, tile * small, small)

        self.each_key_block(visit_keys)

    def each_key_block(self, visit: Callable[[Expr, Any], None]) -> None:
        """Call ``visit(block, keys)`` for the whole blocks of keys, then for the rest."""
        keys = self.key_count()
        whole = opaque(keys // self.lanes)
        with T.serial(T.int64(0), whole) as block:
            visit(block, self.lanes)
        rest = opaque(keys - whole * self.lanes)
        with T.If(rest > 0), T.Then():
            visit(whole, rest)

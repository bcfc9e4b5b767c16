"""The loops of an attention's job on AMX whose numbers of keys are known at run time only.

All tiles of the last block of keys are computed. Behind its last key, scores are -inf and values
zeros, so that nothing is added there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.attention_tiles import SIDE
from tvm_sparse.schedules.emit.sizes import size
from tvm_sparse.schedules.operators.amx_attention_job import AmxAttentionJob
from tvm_sparse.schedules.operators.attention_job import Element
from tvm_sparse.schedules.operators.half_attention_job import SUMMED_KEYS
from tvm_sparse.schedules.operators.sized_attention_job import SizedAttentionJob

if TYPE_CHECKING:
    from tvm.ir import Expr


class SizedAmxAttentionJob(SizedAttentionJob, AmxAttentionJob):
    """The loops of one head and one block of queries; `tokens` and `key_tokens` may be extents.

    Parameters are those of `AmxAttentionJob`.
    """

    _counts = False

    def tiled_keys(self) -> Expr:
        """Return the most keys that tiles are stored for, those of whole blocks."""
        return (size(self.key_tokens) + (self.lanes - 1)) // self.lanes * self.lanes

    def stored(self, keys: int | Expr) -> int:
        """Return how many scores are computed for some keys of a block."""
        del keys
        return self.lanes

    def score_block(self, block: Expr, keys: int | Expr, u: int, added: Element | None) -> None:
        """Compute the scores of a block of keys and one vector of queries."""
        self._counts = not isinstance(keys, int)
        super().score_block(block, self.lanes, u, added)

    def counted(self, score: Expr, key: Expr) -> Expr:
        """Return a score, or -inf behind the last key; whole blocks end before it."""
        return super().counted(score, key) if self._counts else score

    def each_key_group(self, visit: Callable[[Expr, int], None]) -> None:
        """Call ``visit(first, count)`` for groups of the keys of all tiles."""
        with T.serial(T.int64(0), self.key_steps() * (SIDE // SUMMED_KEYS)) as group:
            visit(group * SUMMED_KEYS, SUMMED_KEYS)

    def key_steps(self) -> Expr:
        """Return the steps of 32 keys of all blocks."""
        return (self.key_count() + (self.lanes - 1)) // self.lanes * (self.lanes // SIDE)

    def pairs_behind(self) -> range:
        """Return no pairs: groups of keys cover all tiles."""
        return range(0)

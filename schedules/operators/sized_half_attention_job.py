"""The loops of an attention's job on float16 panels whose numbers are known at run time only.

Exponentials are added up in groups, and products with values in blocks of keys, as in
`HalfAttentionJob`. What lies behind the last key adds zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import opaque
from tvm_sparse.schedules.operators.half_attention_job import (
    SUMMED_KEYS,
    HalfAttentionJob,
    KeyBlocks,
)
from tvm_sparse.schedules.operators.sized_attention_job import SizedAttentionJob

if TYPE_CHECKING:
    from tvm.ir import Expr


class SizedHalfAttentionJob(SizedAttentionJob, HalfAttentionJob):
    """The loops of one head and one block of queries; `tokens` and `key_tokens` may be extents.

    Parameters are those of `HalfAttentionJob`.
    """

    def each_key_group(self, visit: Callable[[Expr, int], None]) -> None:
        """Call ``visit(first, count)`` for groups of keys that cover all of them."""
        group = min(SUMMED_KEYS, self.small_tile())
        with T.serial(T.int64(0), (self.key_count() + (group - 1)) // group) as i:
            visit(i * group, group)

    def each_sum(self) -> Iterator[KeyBlocks]:
        """Yield the blocks, and how many keys each has, whose products are summed from zero."""
        keys = self.key_count()
        whole = opaque(keys // self.lanes)
        groups = opaque(whole // self.group)
        with T.serial(T.int64(0), groups) as group:
            yield self.blocks_of(group * self.group, T.int64(self.group))
        first = groups * self.group
        with T.If(keys > first * self.lanes), T.Then():
            left, rest = opaque(whole - first), opaque(keys - whole * self.lanes)
            yield self.blocks_of(first, left, rest)

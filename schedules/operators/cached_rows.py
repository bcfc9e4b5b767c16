"""The new rows of an attention with a cache: where their queries, keys and values are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import argument

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.sizes.cached_attention import CachedAttention


class CachedRows:
    """Declares the new rows, packed or not, the table of angles, sinks and slopes if there are any.

    Parameters
    ----------
    problem : CachedAttention
        The sizes.
    table_rows : int
        Rows of the table of angles. Positions behind the last row take that one; sessions do not
        get there.
    """

    def __init__(self, problem: CachedAttention, table_rows: int) -> None:
        self.problem, self.table_rows = problem, table_rows
        widths = {
            "q": problem.heads * problem.head_dim,
            "k": problem.kv_heads * problem.head_dim,
            "v": problem.kv_heads * problem.head_dim,
        }
        if problem.packed:
            packed = argument("qkv", 1, problem.tokens, sum(widths.values()))
            self.operands = dict.fromkeys(widths, packed)
            self.buffers = [packed]
            self.starts = {"q": 0, "k": widths["q"], "v": widths["q"] + widths["k"]}
        else:
            self.operands = {
                name: argument(name, 1, problem.tokens, width) for name, width in widths.items()
            }
            self.buffers = list(self.operands.values())
            self.starts = dict.fromkeys(widths, 0)
        if problem.rotated:
            self.cos, self.sin = (
                argument(name, table_rows, problem.rotated // 2) for name in ("cos", "sin")
            )
            self.buffers += [self.cos, self.sin]
        if problem.sinks:
            self.sinks = argument("sinks", problem.heads)
            self.buffers.append(self.sinks)
        if problem.slopes:
            self.slopes = argument("slopes", problem.heads)
            self.buffers.append(self.slopes)

    def load(self, name: str, token: Expr, head: Expr, d: Expr) -> Expr:
        """Return a channel of a head of ``q``, ``k`` or ``v``."""
        place = head * self.problem.head_dim + d + self.starts[name]
        return self.operands[name][T.int64(0), token, place]

    def rotated(
        self,
        name: str,
        token: Expr,
        head: Expr,
        position: Expr,
        store: Callable[[Expr, Expr], None],
    ) -> None:
        """Call `store` with every channel of a head, and its value rotated by the position."""
        problem, half = self.problem, self.problem.rotated // 2
        if half:
            at = T.bind(T.min(position, T.int64(self.table_rows - 1)))
            with T.serial(T.int64(0), T.int64(half)) as i:
                first, second = (2 * i, 2 * i + 1) if problem.interleaved else (i, i + half)
                a, b = (T.bind(self.load(name, token, head, d)) for d in (first, second))
                cos, sin = T.bind(self.cos[at, i]), T.bind(self.sin[at, i])
                store(first, a * cos - b * sin)
                store(second, b * cos + a * sin)
        if problem.rotated < problem.head_dim:
            with T.serial(T.int64(0), T.int64(problem.head_dim - problem.rotated)) as i:
                d = T.bind(i + problem.rotated)
                store(d, self.load(name, token, head, d))

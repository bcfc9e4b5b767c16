"""Attention of new tokens to caches of keys and values, which get those of the new tokens.

The tokens of a call belong to one sequence or to several; each sequence has a cache of its own. The
rows of a head of keys are the heads of queries of a sequence's new tokens that share it. Its
positions are computed in blocks, with the largest score so far, so that the scratch memory is the
same for any length of the sequence::

    for head of keys in parallel:                                            # append
        for token: queries = rotate(q) * scale; keys[position] = rotate(k); values[position] = v
    for head of keys, part of the positions in parallel: for sequence:       # attend
        for block of positions: for rows that fit in registers:
            scores[row, :] = sum_d queries[row, d] keys[d, :]               # positions in the lanes
            weights[row, :] = exp(scores[row, :] - largest[row])
            sums[row, :] = sums[row, :] * shrink[row] + weights[row, p] values[p, :]   # channels
    y = sums of all parts / sums of their weights                            # combine

The positions are cut into parts where there are fewer heads than threads. A cache has
`TILE` positions of keys, or channels of values, beside each other, so that all loads are whole
vectors, and a block of positions lies in one piece, so that a head is read from its beginning to
its end.
The loop nest knows neither the position nor the capacity.

The blocks with a running maximum are those of "FlashAttention" (Dao et al., 2022).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import (
    argument,
    filled,
    number,
    scratch,
    vector,
)
from tvm_sparse.schedules.operators.cached_block import (
    HIDDEN,
    CachedBlock,
    RowMemory,
    exp_vector,
    first_lane,
)
from tvm_sparse.schedules.operators.cached_memory import CacheMemory
from tvm_sparse.schedules.operators.cached_rows import CachedRows
from tvm_sparse.sizes.cached_attention import BLOCK, STATE_COLUMNS, TILE

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

    from tvm_sparse.cpu.profile import CpuProfile
    from tvm_sparse.sizes.cached_attention import CachedAttention


def cached_attention(
    problem: CachedAttention, table_rows: int, cpu: CpuProfile
) -> tvm.tirx.PrimFunc:
    """Build the kernel.

    Parameters
    ----------
    problem : CachedAttention
        The sizes.
    table_rows : int
        Rows of the table of angles, if the kernel rotates.
    cpu : CpuProfile
        Gives the number of threads.

    Returns
    -------
    PrimFunc
        ``(q [1, tokens, heads * head_dim], k, v [1, tokens, kv_heads * head_dim], [cos, sin
        [table_rows, rotated / 2]], [sinks [heads]], [slopes [heads]], places [2, tokens],
        state [tokens, STATE_COLUMNS], y [1, tokens, heads * head_dim])``.
        One tensor ``[1, tokens, (heads + 2 * kv_heads) * head_dim]`` stands for q, k and v if
        they are packed. The places are int64: the addresses of the caches of keys, and of those of
        values, of each sequence, which are written. Rows of `y` without a token are 0.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("cached_attention")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        rows = CachedRows(problem, table_rows)
        places = argument("places", 2, problem.tokens, dtype="int64")
        state = argument("state", problem.tokens, STATE_COLUMNS, dtype="int32")
        y_shape = (1, problem.tokens, problem.heads * problem.head_dim)
        y = argument("y", *y_shape)
        with T.sblock("cached_attention"):
            T.reads(*(_whole(buffer) for buffer in (*rows.buffers, places, state)))
            T.writes(_whole(y))
            nest = _Nest(problem, rows, places, state, cpu.cores)
            nest.append()
            nest.attend()
            nest.combine(y)
    return builder.get()


def _whole(buffer: Any) -> Any:
    return buffer[tuple(slice(0, extent) for extent in buffer.shape)]


class _Sequence:
    """What a call's state says of a sequence."""

    def __init__(self, nest: _Nest, number: Expr) -> None:
        self.nest, self.number = nest, number
        self.first, self.count, self.blocks = (nest.said(number, column) for column in (2, 3, 4))
        self.room = T.bind(self.first * nest.problem.group + number * (nest.memory.together - 1))

    def cache(self, which: int) -> CacheMemory:
        """Return the cache of keys (0) or of values (1)."""
        address = self.nest.places[T.int64(which), self.number]
        return CacheMemory(self.nest.problem, which, address, self.blocks)


class _Nest:
    """The loop nest of a call.

    In scratch memory, the rows of a sequence begin at its `room`, where as many rows are computed
    together as fit in registers: those of a sequence are filled up with unused ones.
    """

    def __init__(
        self, problem: CachedAttention, rows: CachedRows, places: Expr, state: Expr, threads: int
    ) -> None:
        self.problem, self.rows, self.places, self.state = problem, rows, places, state
        self.parts = problem.splits(threads)
        self.memory = RowMemory(problem, self.parts)

    def said(self, row: Expr, column: int) -> Expr:
        """Return a number of the state."""
        return T.bind(T.Cast("int64", self.state[row, T.int64(column)]))

    @contextlib.contextmanager
    def _tokens(self) -> Iterator[tuple[Expr, _Sequence]]:
        """Open a loop over the tokens of all sequences."""
        with T.serial(T.int64(0), T.int64(self.problem.tokens)) as token:
            number = self.said(token, 1)
            with T.If(number >= 0), T.Then():
                yield token, _Sequence(self, number)

    def append(self) -> None:
        """Store the keys and values of the new tokens, and their queries in scratch memory."""
        problem = self.problem
        with _each(problem.kv_heads) as head, self._tokens() as (token, sequence):
            keys, values = sequence.cache(0), sequence.cache(1)
            position = self.said(token, 0)
            block, place = T.bind(position // BLOCK), T.bind(position % BLOCK)
            with keys.storing(head, block, place) as keep_key:
                self.rows.rotated("k", token, head, position, keep_key)
            with (
                values.storing(head, block, place) as keep_value,
                T.serial(T.int64(0), T.int64(problem.head_dim)) as d,
            ):
                keep_value(d, self.rows.load("v", token, head, d))
            with T.serial(T.int64(0), T.int64(problem.group)) as member:
                row = T.bind(head * self.memory.room + self._row(sequence, token, member))

                def keep_query(d: Expr, value: Expr, row: Expr = row) -> None:
                    place = row * problem.head_dim + d
                    T.buffer_store(self.memory.queries, value * number(problem.scale), [place])

                query_head = T.bind(head * problem.group + member)
                self.rows.rotated("q", token, query_head, position, keep_query)

    def _row(self, sequence: _Sequence, token: Expr, member: Expr) -> Expr:
        return sequence.room + (token - sequence.first) * self.problem.group + member

    def attend(self) -> None:
        """Compute the weighted sums of a part of the positions of each sequence."""
        problem, parts = self.problem, self.parts
        with (
            _each(problem.kv_heads * parts) as job,
            T.serial(T.int64(0), T.int64(problem.tokens)) as number,
        ):
            head, part = T.bind(job // parts), T.bind(job % parts)
            sequence = _Sequence(self, number)
            with T.If(sequence.count > 0), T.Then():
                self._attend(sequence, job, head, part)

    def _attend(self, sequence: _Sequence, job: Expr, head: Expr, part: Expr) -> None:
        problem, parts = self.problem, self.parts
        rows = T.bind(sequence.count * problem.group)
        groups = T.bind((rows + (self.memory.together - 1)) // self.memory.together)
        with T.serial(T.int64(0), groups * self.memory.together) as row:
            at = T.bind(job * self.memory.room + sequence.room + row)
            T.buffer_store(self.memory.largest, number(HIDDEN), [at])
            T.buffer_store(self.memory.totals, number(0), [at])
            with T.serial(T.int64(0), T.int64(problem.value_vectors)) as e:
                place = vector(at * self.memory.width + e * TILE, TILE)
                T.buffer_store(self.memory.sums, filled(0, TILE), [place])
        position = self.said(sequence.first, 0)
        end = T.bind(position + sequence.count)
        first = T.int64(0)
        if problem.window:
            seen = position - (problem.window - 1)
            first = T.bind(T.max(seen, T.int64(0)) // BLOCK)
        blocks = T.bind((end + (BLOCK - 1)) // BLOCK - first)
        begin = T.bind(first + blocks * part // parts)
        stop = T.bind(first + blocks * (part + 1) // parts)
        scores = scratch(self.memory.together * BLOCK)
        keys, values = sequence.cache(0), sequence.cache(1)
        with (
            T.serial(T.int64(0), stop - begin) as i,
            T.serial(T.int64(0), groups) as group,
        ):
            block = T.bind(begin + i)
            valid = T.bind(T.min(end - block * BLOCK, T.int64(BLOCK)))
            rows_at = T.bind(sequence.room + group * self.memory.together)
            CachedBlock(
                self.memory, keys, values, head, block, valid, position,
                first_row=group * self.memory.together,
                at=job * self.memory.room + rows_at,
                query=head * self.memory.room + rows_at,
                scores=scores,
                slopes=self.rows.slopes if problem.slopes else None,
            ).compute()  # fmt: skip

    def combine(self, y: Expr) -> None:
        """Divide the sums by the sums of their weights, over all parts of the positions."""
        problem = self.problem
        with (
            _each(problem.kv_heads) as head,
            T.serial(T.int64(0), T.int64(problem.tokens)) as token,
        ):
            of_sequence = self.said(token, 1)
            with T.If(of_sequence >= 0):
                with T.Then():
                    self._divide(y, head, token, _Sequence(self, of_sequence))
                with T.Else():
                    width = problem.group * problem.head_dim
                    with T.serial(T.int64(0), T.int64(width)) as e:
                        T.buffer_store(y, number(0), [T.int64(0), token, head * width + e])

    def _divide(self, y: Expr, head: Expr, token: Expr, sequence: _Sequence) -> None:
        problem, parts = self.problem, self.parts
        with T.serial(T.int64(0), T.int64(problem.group)) as member:
            row = T.bind(self._row(sequence, token, member))
            at = [T.bind((head * parts + part) * self.memory.room + row) for part in range(parts)]
            query_head = T.bind(head * problem.group + member)
            factors = self._factors(at, query_head)
            with T.serial(T.int64(0), T.int64(problem.head_dim)) as d:
                value = _sum(
                    self.memory.sums[place * self.memory.width + d] * factor
                    for place, factor in zip(at, factors, strict=True)
                )
                place = [T.int64(0), token, query_head * problem.head_dim + d]
                T.buffer_store(y, value, place)

    def _factors(self, at: list[Expr], query_head: Expr) -> list[Expr]:
        """Return what the sums of the parts are multiplied by."""
        if len(at) == 1 and not self.problem.sinks:
            return [T.bind(number(1) / self.memory.totals[at[0]])]
        sinks = [self.rows.sinks[query_head]] if self.problem.sinks else []
        largest = [*(self.memory.largest[place] for place in at), *sinks]
        highest = T.bind(functools.reduce(T.max, largest))
        shares = [T.bind(first_lane(exp_vector(score - highest))) for score in largest]
        totals = [self.memory.totals[place] for place in at]
        total = _sum(share * total for share, total in zip(shares, totals, strict=False))
        for share in shares[len(at) :]:
            total = total + share
        inverse = T.bind(number(1) / total)
        return [T.bind(share * inverse) for share in shares[: len(at)]]


def _each(count: int) -> Any:
    loop = T.parallel if count > 1 else T.serial
    return loop(T.int64(0), T.int64(count))


def _sum(values: Any) -> Expr:
    first, *others = values
    for value in others:
        first = first + value
    return first

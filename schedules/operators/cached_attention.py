"""Attention of new tokens to a cache of keys and values, which gets those of the new tokens.

Rows of a head of keys are the new tokens' heads of queries that share it. Its positions are
computed in blocks, with the largest score so far, so that the scratch memory is the same for any
length of the sequence::

    for head of keys in parallel:                                            # append
        for token: queries = rotate(q) * scale; keys[position] = rotate(k); values[position] = v
    for head of keys, part of the positions in parallel:                     # attend
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

import functools
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import (
    Registers,
    argument,
    filled,
    number,
    prefetch,
    scratch,
    vector,
)
from tvm_sparse.schedules.emit.expressions import bound
from tvm_sparse.schedules.emit.vector_math import exp, tanh
from tvm_sparse.schedules.operators.cached_rows import CachedRows
from tvm_sparse.sizes.cached_attention import BLOCK, TILE

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

    from tvm_sparse.cpu.profile import CpuProfile
    from tvm_sparse.sizes.cached_attention import CachedAttention

ACCUMULATORS = 8
"""Vectors of sums in registers: with the operands, AVX2 has room for twelve."""

MOST_ROWS = 4
"""Rows that are computed together: each loaded vector of the cache is multiplied by as many."""

ASKING_GROUPS = 4
"""The most groups of rows with which a block asks for the next one. With more groups, the products
of a block take longer than its bytes, and each group would ask again."""

HIDDEN = -1e30
"""The score of a position that a row does not see, and the largest score before there is one."""


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
        [table_rows, rotated / 2]], [sinks [heads]], keys, values, state [2], y [1, tokens, heads
        * head_dim])``.
        One tensor ``[1, tokens, (heads + 2 * kv_heads) * head_dim]`` stands for q, k and v if
        they are packed. The caches are written in place. The state is int32: the position of the
        first token, and how many of the tokens there are; rows of `y` behind them are 0.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("cached_attention")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        rows = CachedRows(problem, table_rows)
        key_shape, value_shape = problem.caches(tirx.Var("blocks", "int64"))
        keys = argument("keys", *key_shape, dtype=problem.cache)
        values = argument("values", *value_shape, dtype=problem.cache)
        state = argument("state", 2, dtype="int32")
        y_shape = (1, problem.tokens, problem.heads * problem.head_dim)
        y = argument("y", *y_shape)
        with T.sblock("cached_attention"):
            T.reads(*(_whole(buffer) for buffer in (*rows.buffers, keys, values, state)))
            T.writes(*(_whole(buffer) for buffer in (keys, values, y)))
            nest = _Nest(problem, rows, keys, values, state, cpu.cores)
            nest.append()
            nest.attend()
            nest.combine(y)
    return builder.get()


def _whole(buffer: Any) -> Any:
    return buffer[tuple(slice(0, extent) for extent in buffer.shape)]


class _Nest:
    """The loop nest of a call."""

    def __init__(
        self,
        problem: CachedAttention,
        rows: CachedRows,
        keys: Expr,
        values: Expr,
        state: Expr,
        threads: int,
    ) -> None:
        self.problem, self.rows, self.keys, self.values = problem, rows, keys, values
        self.position = T.bind(T.Cast("int64", state[T.int64(0)]))
        self.count = T.bind(T.Cast("int64", state[T.int64(1)]))
        most = problem.tokens * problem.group
        self.together = -(-most // -(-most // MOST_ROWS))
        self.room = -(-most // self.together) * self.together  # rows of a head, and unused ones
        self.width = problem.value_vectors * TILE
        self.parts = problem.splits(threads)
        jobs = problem.kv_heads * self.parts
        self.queries = scratch(problem.kv_heads * self.room * problem.head_dim)
        self.sums = scratch(jobs * self.room * self.width)
        self.largest, self.totals = scratch(jobs * self.room), scratch(jobs * self.room)

    def append(self) -> None:
        """Store the keys and values of the new tokens, and their queries in scratch memory."""
        problem = self.problem
        with (
            _each(problem.kv_heads) as head,
            T.serial(T.int64(0), self.count) as token,
        ):
            position = T.bind(self.position + token)
            block, place = T.bind(position // BLOCK), T.bind(position % BLOCK)
            tile, lane = T.bind(place // TILE), T.bind(place % TILE)

            def keep_key(d: Expr, value: Expr) -> None:
                T.buffer_store(self.keys, _as(value, problem.cache), [head, block, tile, d, lane])

            self.rows.rotated("k", token, head, position, keep_key)
            with T.serial(T.int64(0), T.int64(problem.head_dim)) as d:
                value = _as(self.rows.load("v", token, head, d), problem.cache)
                T.buffer_store(self.values, value, [head, block, d // TILE, place, d % TILE])
            with T.serial(T.int64(0), T.int64(problem.group)) as member:
                row = T.bind(head * self.room + token * problem.group + member)

                def keep_query(d: Expr, value: Expr, row: Expr = row) -> None:
                    place = row * problem.head_dim + d
                    T.buffer_store(self.queries, value * number(problem.scale), [place])

                query_head = T.bind(head * problem.group + member)
                self.rows.rotated("q", token, query_head, position, keep_query)

    def attend(self) -> None:
        """Compute the weighted sums of a part of the positions."""
        problem, parts = self.problem, self.parts
        with _each(problem.kv_heads * parts) as job:
            head, part = T.bind(job // parts), T.bind(job % parts)
            rows = T.bind(self.count * problem.group)
            groups = T.bind((rows + (self.together - 1)) // self.together)
            with T.serial(T.int64(0), groups * self.together) as row:
                at = T.bind(job * self.room + row)
                T.buffer_store(self.largest, number(HIDDEN), [at])
                T.buffer_store(self.totals, number(0), [at])
                with T.serial(T.int64(0), T.int64(problem.value_vectors)) as e:
                    place = vector(at * self.width + e * TILE, TILE)
                    T.buffer_store(self.sums, filled(0, TILE), [place])
            end = T.bind(self.position + self.count)
            first = T.int64(0)
            if problem.window:
                seen = self.position - (problem.window - 1)
                first = T.bind(T.max(seen, T.int64(0)) // BLOCK)
            blocks = T.bind((end + (BLOCK - 1)) // BLOCK - first)
            begin = T.bind(first + blocks * part // parts)
            stop = T.bind(first + blocks * (part + 1) // parts)
            scores = scratch(self.together * BLOCK)
            with (
                T.serial(T.int64(0), stop - begin) as i,
                T.serial(T.int64(0), groups) as group,
            ):
                block = T.bind(begin + i)
                valid = T.bind(T.min(end - block * BLOCK, T.int64(BLOCK)))
                _Block(self, job, head, block, valid, group * self.together, scores).compute()

    def combine(self, y: Expr) -> None:
        """Divide the sums by the sums of their weights, over all parts of the positions."""
        problem, parts = self.problem, self.parts
        with (
            _each(problem.kv_heads) as head,
            T.serial(T.int64(0), T.int64(problem.tokens)) as token,
            T.serial(T.int64(0), T.int64(problem.group)) as member,
        ):
            first = T.bind((head * problem.group + member) * problem.head_dim)
            row = T.bind(token * problem.group + member)
            at = [T.bind((head * parts + part) * self.room + row) for part in range(parts)]

            def store(value: Any) -> None:
                with T.serial(T.int64(0), T.int64(problem.head_dim)) as d:
                    T.buffer_store(y, value(d), [T.int64(0), token, first + d])

            with T.If(token < self.count):
                with T.Then():
                    factors = self._factors(at, T.bind(head * problem.group + member))
                    store(
                        lambda d: _sum(
                            self.sums[place * self.width + d] * factor
                            for place, factor in zip(at, factors, strict=True)
                        )
                    )
                with T.Else():
                    store(lambda _: number(0))

    def _factors(self, at: list[Expr], query_head: Expr) -> list[Expr]:
        """Return what the sums of the parts are multiplied by."""
        if len(at) == 1 and not self.problem.sinks:
            return [T.bind(number(1) / self.totals[at[0]])]
        sinks = [self.rows.sinks[query_head]] if self.problem.sinks else []
        largest = [*(self.largest[place] for place in at), *sinks]
        highest = T.bind(functools.reduce(T.max, largest))
        shares = [T.bind(_first(_exp(score - highest))) for score in largest]
        totals = [self.totals[place] for place in at]
        total = _sum(share * total for share, total in zip(shares, totals, strict=False))
        for share in shares[len(at) :]:
            total = total + share
        inverse = T.bind(number(1) / total)
        return [T.bind(share * inverse) for share in shares[: len(at)]]


class _Block:
    """A block of positions for some rows of a head."""

    def __init__(
        self,
        nest: _Nest,
        job: Expr,
        head: Expr,
        block: Expr,
        valid: Expr,
        first_row: Expr,
        scores: Expr,
    ) -> None:
        self.nest, self.problem, self.head = nest, nest.problem, head
        self.block, self.valid, self.scores = block, valid, scores
        self.first_row = T.bind(first_row)
        self.at = T.bind(job * nest.room + self.first_row)
        self.query = T.bind(head * nest.room + self.first_row)
        self.count = nest.together
        self.tiles = 1 << (ACCUMULATORS // self.count).bit_length() - 1
        self.steps = T.bind((valid + (self.tiles * TILE - 1)) // (self.tiles * TILE))

    def compute(self) -> None:
        """Add the block to the sums."""
        with T.serial(T.int64(0), self.steps) as step:
            self._score(step)
        # In registers, because TVM may replace a name by what it stands for, and that changes.
        shrinks = Registers(self.count, TILE)
        for r in range(self.count):
            self._weigh(r, shrinks)
        vectors = self.problem.value_vectors
        width = max(w for w in range(1, ACCUMULATORS // self.count + 1) if not vectors % w)
        with T.serial(T.int64(0), T.int64(vectors // width)) as e:
            self._add(e * width, width, shrinks)

    def _score(self, step: Expr) -> None:
        """Store the scores of some tiles of positions."""
        nest, head_dim, tiles = self.nest, self.problem.head_dim, self.tiles
        scores = Registers(self.count * tiles, TILE)
        for i in range(self.count * tiles):
            scores[i] = filled(0, TILE)
        first = T.bind(step * tiles)
        lanes = vector(T.int64(0), TILE)
        with T.serial(T.int64(0), T.int64(head_dim)) as d:
            if nest.room <= MOST_ROWS * ASKING_GROUPS:
                self._ask_ahead(first, d)
            keys = [
                T.bind(_as(nest.keys[self.head, self.block, first + u, d, lanes], "float32"))
                for u in range(tiles)
            ]
            for r in range(self.count):
                query = T.bind(T.Broadcast(nest.queries[(self.query + r) * head_dim + d], TILE))
                for u, key in enumerate(keys):
                    scores[r * tiles + u] = scores[r * tiles + u] + key * query
        for r in range(self.count):
            own = T.bind(T.Cast("int32", nest.position + self._token(r)))
            for u in range(tiles):
                place = T.bind((step * tiles + u) * TILE)
                score = self._shown(scores[r * tiles + u], self.block * BLOCK + place, own)
                T.buffer_store(self.scores, score, [vector(r * BLOCK + place, TILE)])

    def _ask_ahead(self, tile: Expr, d: Expr) -> None:
        """Ask for a part of the next block: the processor itself asks within a page only."""
        nest, ahead = self.nest, self.block + 1
        prefetch(nest.keys[self.head, ahead, tile, d, T.int64(0)], to_l1=False)
        vectors = tile * self.problem.head_dim + d * self.tiles
        place = [vectors // BLOCK, vectors % BLOCK, T.int64(0)]
        prefetch(nest.values[(self.head, ahead, *place)], to_l1=False)

    def _token(self, r: int) -> Expr:
        return (self.first_row + r) // self.problem.group

    def _shown(self, score: Expr, first: Expr, own: Expr) -> Expr:
        """Return scores of positions from `first` on, hidden where the token does not see them."""
        cap = self.problem.softcap
        if cap:
            score = bound(tanh(T.bind(score * filled(1 / cap, TILE)))) * filled(cap, TILE)
        place = T.bind(T.Ramp(T.Cast("int32", first), T.int32(1), TILE))
        is_seen = place <= T.Broadcast(own, TILE)
        if self.problem.window:
            before = T.Broadcast(own - self.problem.window, TILE)
            is_seen = tirx.And(is_seen, place > before)
        return tirx.Select(is_seen, score, filled(HIDDEN, TILE))

    def _weigh(self, r: int, shrinks: Registers) -> None:
        """Replace the scores of a row by weights; `shrinks` gets the factor of the sums so far."""
        nest, at = self.nest, T.bind(self.at + r)
        vectors = T.bind(self.steps * self.tiles)
        held = Registers(1, TILE)
        held[0] = filled(HIDDEN, TILE)
        with T.serial(T.int64(0), vectors) as i:
            held[0] = T.max(held[0], self.scores[vector(r * BLOCK + i * TILE, TILE)])
        before = T.bind(nest.largest[at])
        largest = T.bind(T.max(before, _largest(held[0])))
        total = Registers(1, TILE)
        total[0] = filled(0, TILE)
        with T.serial(T.int64(0), vectors) as i:
            place = vector(r * BLOCK + i * TILE, TILE)
            score = T.bind(self.scores[place])
            grown = bound(exp(T.bind(score - T.Broadcast(largest, TILE))))
            # A hidden position weighs nothing even if all positions of the block are hidden.
            is_hidden = score <= filled(HIDDEN, TILE)
            weight = T.bind(tirx.Select(is_hidden, filled(0, TILE), grown))
            T.buffer_store(self.scores, weight, [place])
            total[0] = total[0] + weight
        shrinks[r] = _exp(before - largest)
        weights = _total(total[0])
        T.buffer_store(nest.totals, nest.totals[at] * _first(shrinks[r]) + weights, [at])
        T.buffer_store(nest.largest, largest, [at])

    def _add(self, first: Expr, width: int, shrinks: Registers) -> None:
        """Add the weighted values of some vectors of channels."""
        nest = self.nest
        sums = Registers(self.count * width, TILE)

        def place(r: int, u: int) -> Expr:
            return vector((self.at + r) * nest.width + (first + u) * TILE, TILE)

        for r in range(self.count):
            for u in range(width):
                sums[r * width + u] = nest.sums[place(r, u)] * shrinks[r]
        lanes = vector(T.int64(0), TILE)
        with T.serial(T.int64(0), self.valid) as i:
            values = [
                T.bind(_as(nest.values[self.head, self.block, first + u, i, lanes], "float32"))
                for u in range(width)
            ]
            for r in range(self.count):
                weight = T.bind(T.Broadcast(self.scores[r * BLOCK + i], TILE))
                for u, value in enumerate(values):
                    sums[r * width + u] = sums[r * width + u] + value * weight
        for r in range(self.count):
            for u in range(width):
                T.buffer_store(nest.sums, sums[r * width + u], [place(r, u)])


def _each(count: int) -> Any:
    loop = T.parallel if count > 1 else T.serial
    return loop(T.int64(0), T.int64(count))


def _as(value: Expr, dtype: str) -> Expr:
    held = value.ty.dtype
    if held.with_lanes(1) == dtype:
        return value
    return T.Cast(f"{dtype}x{held.lanes}" if held.lanes > 1 else dtype, value)


def _largest(value: Expr) -> Expr:
    """Return the largest of the elements of a vector."""
    name = f"llvm.vector.reduce.fmax.v{TILE}f32"
    return T.bind(T.call_llvm_pure_intrin("float32", name, value))


def _total(value: Expr) -> Expr:
    """Return the sum of the elements of a vector, half by half."""
    distance = TILE // 2
    while distance:
        others = [(i + distance) % TILE for i in range(TILE)]
        value = T.bind(value + T.Shuffle([value], others))
        distance //= 2
    return T.bind(_first(value))


def _exp(value: Expr) -> Expr:
    """Return a vector that holds the exponential of a value.

    TVM's simplifier takes apart the sums by which `exp` rounds, unless they are of vectors.
    """
    return bound(exp(T.bind(T.Broadcast(value, TILE))))


def _first(value: Expr) -> Expr:
    return T.Shuffle([value], [0])


def _sum(values: Any) -> Expr:
    first, *others = values
    for value in others:
        first = first + value
    return first

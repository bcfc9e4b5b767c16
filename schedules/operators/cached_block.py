"""A block of positions of a cache, for some rows of a head of an attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import (
    Registers,
    filled,
    prefetch,
    scratch,
    vector,
)
from tvm_sparse.schedules.emit.expressions import bound
from tvm_sparse.schedules.emit.vector_math import exp, tanh
from tvm_sparse.sizes.cached_attention import BLOCK, TILE

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.schedules.operators.cached_memory import CacheMemory
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


class RowMemory:
    """Scratch memory of rows: their queries, and what was computed of the blocks so far.

    Parameters
    ----------
    problem : CachedAttention
        The sizes.
    parts : int
        Into how many parts the positions of a head are cut.

    Attributes
    ----------
    together : int
        Rows that are computed together. Those of a sequence are filled up with unused ones.
    room : int
        Rows of a head.
    """

    def __init__(self, problem: CachedAttention, parts: int) -> None:
        self.problem = problem
        most = problem.tokens * problem.group
        self.together = -(-most // -(-most // MOST_ROWS))
        self.most_groups = -(-most // self.together)
        self.room = most + problem.tokens * (self.together - 1)
        self.width = problem.value_vectors * TILE
        jobs = problem.kv_heads * parts
        self.queries = scratch(problem.kv_heads * self.room * problem.head_dim)
        self.sums = scratch(jobs * self.room * self.width)
        self.largest, self.totals = scratch(jobs * self.room), scratch(jobs * self.room)


class CachedBlock:
    """A block of positions for some rows of a head."""

    def __init__(
        self,
        rows: RowMemory,
        keys: CacheMemory,
        values: CacheMemory,
        head: Expr,
        block: Expr,
        valid: Expr,
        position: Expr,
        *,
        first_row: Expr,
        at: Expr,
        query: Expr,
        scores: Expr,
        slopes: Expr | None,
    ) -> None:
        self.rows, self.problem, self.head = rows, rows.problem, head
        self.keys, self.values, self.position = keys, values, position
        self.block, self.valid, self.scores, self.slopes = block, valid, scores, slopes
        self.first_row, self.at, self.query = T.bind(first_row), T.bind(at), T.bind(query)
        self.count = rows.together
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
        rows, head_dim, tiles = self.rows, self.problem.head_dim, self.tiles
        scores = Registers(self.count * tiles, TILE)
        for i in range(self.count * tiles):
            scores[i] = filled(0, TILE)
        first = T.bind(step * tiles)
        with T.serial(T.int64(0), T.int64(head_dim)) as d:
            if rows.most_groups <= ASKING_GROUPS:
                self._ask_ahead(first, d)
            keys = [self.keys.load(self.head, self.block, first + u, d) for u in range(tiles)]
            for r in range(self.count):
                query = T.bind(T.Broadcast(rows.queries[(self.query + r) * head_dim + d], TILE))
                for u, key in enumerate(keys):
                    scores[r * tiles + u] = scores[r * tiles + u] + key * query
        if self.keys.has_scales:
            for u in range(tiles):
                place = (step * tiles + u) * TILE
                scale = T.bind(self.keys.scales(self.head, self.block, place))
                for r in range(self.count):
                    scores[r * tiles + u] = scores[r * tiles + u] * scale
        for r in range(self.count):
            own = T.bind(T.Cast("int32", self.position + self._token(r)))
            for u in range(tiles):
                place = T.bind((step * tiles + u) * TILE)
                first_place = self.block * BLOCK + place
                score = self._shown(r, scores[r * tiles + u], first_place, own)
                T.buffer_store(self.scores, score, [vector(r * BLOCK + place, TILE)])

    def _ask_ahead(self, tile: Expr, d: Expr) -> None:
        """Ask for a part of the next block: the processor itself asks within a page only."""
        ahead = self.block + 1
        prefetch(self.keys.elements[self.head, ahead, tile, d, T.int64(0)], to_l1=False)
        vectors = tile * self.problem.head_dim + d * self.tiles
        place = [vectors // BLOCK, vectors % BLOCK, T.int64(0)]
        prefetch(self.values.elements[(self.head, ahead, *place)], to_l1=False)

    def _token(self, r: int) -> Expr:
        return (self.first_row + r) // self.problem.group

    def _shown(self, r: int, score: Expr, first: Expr, own: Expr) -> Expr:
        """Return scores of positions from `first` on, hidden where the token does not see them."""
        cap = self.problem.softcap
        if cap:
            score = bound(tanh(T.bind(score * filled(1 / cap, TILE)))) * filled(cap, TILE)
        place = T.bind(T.Ramp(T.Cast("int32", first), T.int32(1), TILE))
        if self.slopes is not None:
            group = self.problem.group
            member = T.bind((self.first_row + r) % group)
            slope = T.bind(self.slopes[self.head * group + member])
            distance = T.Cast(f"float32x{TILE}", place - T.Broadcast(own, TILE))
            score = score + distance * T.Broadcast(slope, TILE)
        is_seen = place <= T.Broadcast(own, TILE)
        if self.problem.window:
            before = T.Broadcast(own - self.problem.window, TILE)
            is_seen = tirx.And(is_seen, place > before)
        return tirx.Select(is_seen, score, filled(HIDDEN, TILE))

    def _weigh(self, r: int, shrinks: Registers) -> None:
        """Replace the scores of a row by weights; `shrinks` gets the factor of the sums so far."""
        rows, at = self.rows, T.bind(self.at + r)
        vectors = T.bind(self.steps * self.tiles)
        held = Registers(1, TILE)
        held[0] = filled(HIDDEN, TILE)
        with T.serial(T.int64(0), vectors) as i:
            held[0] = T.max(held[0], self.scores[vector(r * BLOCK + i * TILE, TILE)])
        before = T.bind(rows.largest[at])
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
            total[0] = total[0] + weight
            if self.values.has_scales:
                weight = weight * self.values.scales(self.head, self.block, i * TILE)
            T.buffer_store(self.scores, weight, [place])
        shrinks[r] = exp_vector(before - largest)
        weights = _total(total[0])
        T.buffer_store(rows.totals, rows.totals[at] * first_lane(shrinks[r]) + weights, [at])
        T.buffer_store(rows.largest, largest, [at])

    def _add(self, first: Expr, width: int, shrinks: Registers) -> None:
        """Add the weighted values of some vectors of channels."""
        rows = self.rows
        sums = Registers(self.count * width, TILE)

        def place(r: int, u: int) -> Expr:
            return vector((self.at + r) * rows.width + (first + u) * TILE, TILE)

        for r in range(self.count):
            for u in range(width):
                sums[r * width + u] = rows.sums[place(r, u)] * shrinks[r]
        with T.serial(T.int64(0), self.valid) as i:
            values = [self.values.load(self.head, self.block, first + u, i) for u in range(width)]
            for r in range(self.count):
                weight = T.bind(T.Broadcast(self.scores[r * BLOCK + i], TILE))
                for u, value in enumerate(values):
                    sums[r * width + u] = sums[r * width + u] + value * weight
        for r in range(self.count):
            for u in range(width):
                T.buffer_store(rows.sums, sums[r * width + u], [place(r, u)])


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
    return T.bind(first_lane(value))


def exp_vector(value: Expr) -> Expr:
    """Return a vector that holds the exponential of a value.

    TVM's simplifier takes apart the sums by which `exp` rounds, unless they are of vectors.
    """
    return bound(exp(T.bind(T.Broadcast(value, TILE))))


def first_lane(value: Expr) -> Expr:
    """Return the first element of a vector."""
    return T.Shuffle([value], [0])

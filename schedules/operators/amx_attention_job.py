"""The loops of an attention's job on the matrix unit AMX: one head and one block of queries.

Panels are float16; products of bfloat16 values are summed in float32. The unit multiplies tiles of
16 rows of 32 values by tiles of 16 rows of 16 pairs (see `tvm_sparse.schedules.emit.amx`)::

    scores[key, query] = sum of keys[key, 32 channels] * queries[channel pair, query]
    o[channel, query] = sum of values[channel, 32 keys] * exponentials[key pair, query]

The pairs and the values have the order of the panels. Only the keys are transposed, 16 pairs of
channels by 16 keys at a time, in registers. Blocks of queries share the tiles of keys and values.

The exponentials stay float16 until they are stored: their bits become those of bfloat16 by integer
operations, and two keys become pairs by the one instruction of x86 that interleaves within 128
bits. So the columns of two tiles hold the queries in another order, which results undo.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.quantization import NOT_ROUNDED, Roundings
from tvm_sparse.schedules.emit import amx
from tvm_sparse.schedules.emit.attention_tiles import (
    SIDE,
    AttentionTiles,
    columns_unpacked,
    lowered_bits,
    unpacked,
)
from tvm_sparse.schedules.emit.bfloat16_pairs import PAIRS
from tvm_sparse.schedules.emit.buffers import (
    converted,
    filled,
    number,
    scratch,
)
from tvm_sparse.schedules.emit.buffers import vector as vector_at
from tvm_sparse.schedules.emit.half_math import RAISED, raised_exp_of_negative
from tvm_sparse.schedules.operators.attention_job import Element
from tvm_sparse.schedules.operators.half_attention_job import HalfAttentionJob

if TYPE_CHECKING:
    from tvm.ir import Expr

STAYING_STEPS = 2
"""Steps of 32 channels of a head whose queries stay in tile registers, two tiles each."""

_CHECKED = 4
"""Scores of a query whose largest is found before it meets that of the others."""


class AmxAttentionJob(HalfAttentionJob):
    """The loops of one head and one block of queries on AMX.

    Parameters
    ----------
    tokens, key_tokens, head_dim, lanes, cpu, roundings
        As `AttentionJob`; lanes and the channels of a head are multiples of 32, and nothing is
        rounded.
    """

    def __init__(
        self,
        tokens: int,
        key_tokens: int,
        head_dim: int,
        lanes: int,
        cpu: CpuProfile,
        roundings: Roundings = NOT_ROUNDED,
    ) -> None:
        super().__init__(tokens, key_tokens, head_dim, lanes, cpu, roundings)
        self.columns = lanes // SIDE
        self.steps = head_dim // SIDE
        self.tiles = AttentionTiles(self.tiled_keys(), head_dim, lanes)
        self.tile_sums = scratch(SIDE * SIDE, DType.FLOAT32)

    @staticmethod
    def refusal(head_dim: int, lanes: int, cpu: CpuProfile) -> str:
        """Return why the unit cannot compute an attention; an empty string if it can."""
        if not cpu.has_matrix_unit:
            return "the target has no AMX bf16 unit"
        if head_dim % SIDE or lanes % SIDE:
            return f"{head_dim} channels of a head, or {lanes} lanes, are no multiple of {SIDE}"
        return ""

    def configure(self) -> None:
        """Configure the tile registers."""
        amx.configure()

    def begin(self, key_panel: Callable[[Expr], Any], value_panel: Callable[[Expr], Any]) -> None:
        """Store the keys and values of a head as tiles."""
        self.each_key_block(
            lambda block, n: self.tiles.store_keys(key_panel(block), block, self.stored(n))
        )
        self.each_key_block(lambda block, n: self.tiles.store_values(value_panel(block), block, n))

    def end(self) -> None:
        """Leave the tile registers."""
        amx.release()

    def tiled_keys(self) -> int | Expr:
        """Return the most keys that tiles are stored for."""
        return self.key_tokens

    def stored(self, keys: int) -> int:
        """Return how many scores are computed for some keys of a block."""
        return keys

    def score(
        self,
        queries: Any,
        key_panel: Callable[[Expr], Any],
        scale: float,
        added: Element | None,
        visited: Callable[[Expr], None] | None,
    ) -> None:
        """Compute the scores and the largest score of every query; `visited` is told each key."""
        for u in self.vectors:
            self.largest[u] = self.across(number(float("-inf"), self.dtype))
        self.tiles.store_queries(queries, scale)

        def visit_keys(block: Expr, keys: int) -> None:
            for u in range(self.columns):
                self.score_block(block, keys, u, added)
            if visited is not None:
                with T.serial(T.int64(0), T.int64(keys)) as i:
                    visited(block * self.lanes + i)

        self.each_key_block(visit_keys)

    def score_block(self, block: Expr, keys: int, u: int, added: Element | None) -> None:
        """Compute the scores of a block of keys and one vector of queries."""
        first = T.bind(block * self.lanes)

        def query_tile(b: int, step: Expr | int) -> Expr:
            return self.tiles.queries(2 * u + b, step)

        stays = self.steps <= STAYING_STEPS
        if stays:
            for step in range(self.steps):
                for b in range(2):
                    amx.load(4 + 2 * step + b, query_tile(b, step))

        def visit(start: Expr, count: int) -> None:
            tile = T.bind((first + start) // PAIRS)
            tiles = -(-count // PAIRS)
            if stays:
                for b in range(2):
                    amx.zero(b)
                for step in range(self.steps):
                    amx.load(2 + step, self.tiles.keys(tile, step))
                    for b in range(2):
                        amx.multiply(amx.BFLOAT16, b, 2 + step, 4 + 2 * step + b)
                for b in range(2):
                    amx.store(b, self.tile_sums[b * PAIRS], row_bytes=4 * SIDE)
            else:
                self._multiply(
                    self.steps, lambda a, step: self.tiles.keys(tile + a, step), query_tile, tiles
                )
            self._keep_scores(first + start, count, u, added)

        rows = PAIRS if stays else SIDE
        whole, rest = divmod(keys, rows)
        if whole:
            with T.serial(T.int64(0), T.int64(whole)) as i:
                visit(i * rows, rows)
        if rest:
            visit(T.int64(whole * rows), rest)

    def exponentiate(self) -> None:
        """Store the exponentials of the scores as pairs of keys, and add them up."""
        for u in self.vectors:
            self.total[u] = filled(0, self.width)

        def powers(first: Expr, count: int, u: int) -> list[Expr]:
            """Return the bits, as bfloat16, of the exponentials of some keys."""
            scores = [self.scores[self.part(first + i, u)] for i in range(count)]
            raised = [T.bind(raised_exp_of_negative(s - self.largest[u])) for s in scores]
            self.total[u] = self.total[u] + converted(_sum(raised), DType.FLOAT32)
            return [T.bind(lowered_bits(power)) for power in raised]

        def visit(first: Expr, count: int) -> None:
            for u in self.vectors:
                bits = powers(first, count, u)
                bits += [T.Broadcast(T.int16(0), SIDE)] * (count % 2)
                for i in range(0, len(bits), 2):
                    keep((first + i) // 2, u, bits[i : i + 2])

        def keep(pair: Expr, u: int, bits: list[Expr]) -> None:
            for b in range(2):
                words = T.reinterpret(f"uint32x{PAIRS}", T.Shuffle(bits, unpacked(b)))
                self.tiles.store_weights(2 * u + b, pair, words)

        self.each_key_group(visit)
        none = [T.Broadcast(T.int16(0), SIDE)] * 2
        for pair in self.pairs_behind():
            for u in self.vectors:
                keep(T.int64(pair), u, none)

    def key_steps(self) -> int | Expr:
        """Return the steps of 32 keys that are multiplied."""
        return self.tiles.key_steps

    def pairs_behind(self) -> range:
        """Return the pairs of keys of the last tile behind the last key."""
        return range(-(-self.key_tokens // 2), self.tiles.key_steps * PAIRS)

    def average(
        self, value_panel: Callable[[Expr], Any], store: Callable[[Expr, Expr, Expr], None]
    ) -> None:
        """Compute the averages of the values, weighted by the exponentials."""
        shares = []
        for u in self.vectors:
            share = T.bind(filled(2.0**RAISED, self.width) / self.total[u])
            shares.append(T.bind(T.Shuffle([share], columns_unpacked())))
        in_order = [columns_unpacked().index(query) for query in range(SIDE)]
        with T.serial(T.int64(0), T.int64(self.steps)) as step:
            for u in range(self.columns):
                self._multiply(
                    self.key_steps(),
                    lambda a, k: self.tiles.values(step * 2 + a, k),
                    functools.partial(self._weights, u),
                )
                with T.serial(T.int64(0), T.int64(SIDE)) as row:
                    sums = self.tile_sums[vector_at(row * SIDE, SIDE)]
                    lanes = vector_at(T.int64(u * SIDE), SIDE)
                    result = T.bind(converted(sums * shares[u], self.dtype))
                    store(T.Shuffle([result], in_order), step * SIDE + row, lanes)

    def _weights(self, u: int, b: int, step: Expr) -> Expr:
        return self.tiles.weights(2 * u + b, step)

    def _multiply(
        self,
        steps: int | Expr,
        a_tile: Callable[[int, Expr], Expr],
        b_tile: Callable[[int, Expr], Expr],
        tiles: int = 2,
    ) -> None:
        """Store the product of `tiles` tiles A and two tiles B, summed over steps, in the sums."""
        results: Sequence[tuple[int, int]] = [(a, b) for a in range(tiles) for b in range(2)]
        for a, b in results:
            amx.zero(2 * a + b)
        with T.serial(T.int64(0), T.int64(steps) if isinstance(steps, int) else steps) as step:
            for a in range(tiles):
                amx.load(4 + a, a_tile(a, step))
            for b in range(2):
                amx.load(6 + b, b_tile(b, step))
            for a, b in results:
                amx.multiply(amx.BFLOAT16, 2 * a + b, 4 + a, 6 + b)
        for a, b in results:
            start = self.tile_sums[a * PAIRS * SIDE + b * PAIRS]
            amx.store(2 * a + b, start, row_bytes=4 * SIDE)

    def _keep_scores(self, first: Expr, count: int, u: int, added: Element | None) -> None:
        """Store the scores of `count` keys and one vector of queries, and keep the largest."""

        def keep(start: Expr, number_of: int) -> None:
            scores = []
            for i in range(number_of):
                key = first + (start + i)
                sums = self.tile_sums[vector_at((start + i) * SIDE, SIDE)]
                score = converted(sums, self.dtype)
                score = score if added is None else score + added(key, u)
                score = T.bind(self.counted(score, key))
                T.buffer_store(self.scores, score, [self.part(key, u)])
                scores.append(score)
            while len(scores) > 1:
                pairs = [scores[i : i + 2] for i in range(0, len(scores), 2)]
                scores = [T.max(*pair) if len(pair) > 1 else pair[0] for pair in pairs]
            self.largest[u] = T.max(self.largest[u], scores[0])

        with T.serial(T.int64(0), T.int64(count // _CHECKED)) as group:
            keep(group * _CHECKED, _CHECKED)
        rest = count % _CHECKED
        if rest:
            keep(T.int64(count - rest), rest)


def _sum(values: list[Expr]) -> Expr:
    """Return the sum, added up in pairs as if zeros followed."""
    half = (len(values) + 1) // 2
    return values[0] if len(values) == 1 else _sum(values[:half]) + _sum(values[half:])

"""The loops of an attention's job on float16 panels: one head and one block of queries.

All products are float16. Those with the keys add up the channels of a head, and those with the
values 64 keys or a block of them, from zero. The exponentials are added up in float32, and divided
by their sum before they meet the values, so that no sum exceeds the values.

On x86 a multiply-add needs its scalar in all lanes, and to spread 16 bits takes an operation of the
very port that half of the multiply-adds need. Spreading 32 bits takes a load only. So the keys and
values of a block are written once as pairs of equal numbers::

    k0 k1 k2 k3 ...   ->   k0 k0 k1 k1 k2 k2 k3 k3 ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from tvm.tirx import Select
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.quantization import NOT_ROUNDED, Roundings
from tvm_sparse.schedules.emit.buffers import converted, filled, number, scratch
from tvm_sparse.schedules.emit.buffers import vector as vector_at
from tvm_sparse.schedules.emit.expressions import constant, maximum
from tvm_sparse.schedules.emit.half_math import exp_of_negative
from tvm_sparse.schedules.emit.panel_memory import Distances
from tvm_sparse.schedules.emit.tiles import each_tile
from tvm_sparse.schedules.operators.attention_job import AttentionJob, Element
from tvm_sparse.sizes.extent import Extent

if TYPE_CHECKING:
    from tvm.ir import Expr

LOWEST_BIAS = -32768.0
"""Masks of the most negative float32 become this number. Its sum with a score is finite and, as in
float32, hardly depends on the score."""

ACCUMULATORS = 16
"""Accumulators of a register tile. Tiles of a power of two cut blocks of keys without rest; LLVM
spills accumulators where tiles of different sizes follow each other."""

SUMMED_PRODUCTS = 64
"""Products with values that are added up from zero."""

SUMMED_KEYS = 4
"""Exponentials that are added up in float16 before they are converted for the sum in float32."""


KeyBlocks: TypeAlias = "Iterator[tuple[Expr, int | Expr]]"
"""Blocks of keys: the number of each, and its keys."""


class HalfAttentionJob(AttentionJob):
    """The loops of one head and one block of queries in float16.

    Parameters
    ----------
    tokens, key_tokens, head_dim, lanes, cpu, roundings
        As `AttentionJob`.
    """

    dtype = DType.FLOAT16

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
        self.tile = max(min(self.tile, ACCUMULATORS // len(self.vectors)), 1)
        self.size = head_dim * lanes
        self.scaled = scratch(self.size, self.dtype)
        self.group = max(SUMMED_PRODUCTS // lanes, 1)
        self.has_groups = isinstance(key_tokens, Extent) or key_tokens > self.group * lanes
        self.sums = scratch(self.tile * lanes, self.dtype)
        reads_pairs = cpu.weights_per_load(self.dtype) == 1
        self.pairs = scratch(self.size, "uint32") if reads_pairs else None

    def as_score(self, bias: Expr) -> Expr:
        """Return a bias as float16; finite numbers stay finite."""
        limited = maximum(constant(LOWEST_BIAS, bias), bias)
        infinity = constant(-math.inf, bias)
        return converted(Select(T.EQ(bias, infinity), infinity, limited), self.dtype)

    def prepare(self, queries: Any, scale: float) -> tuple[Element, Expr | None]:
        """Scale the queries, so that their products with the keys stay small."""
        with T.serial(T.int64(0), T.int64(self.head_dim)) as d:
            for u in self.vectors:
                place = self.part(d, u)
                scaled = queries[place] * self.across(number(scale, self.dtype))
                T.buffer_store(self.scaled, scaled, [place])
        return lambda d, u: self.scaled[self.part(d, u)], None

    def factors(self, panel: Any, rows: int | None = None) -> Callable[[Expr], Expr]:
        """Return a function that returns an element of a panel in all lanes of a vector.

        Elements of the first `rows` rows only are asked for, by default of all.
        """
        if self.pairs is None:
            return super().factors(panel)
        pairs, width = self.pairs, self.width // 2
        count = self.size if rows is None else rows * self.lanes
        with T.serial(T.int64(0), T.int64(count // self.width)) as i:
            values = T.bind(panel[vector_at(i * self.width, self.width)])
            for first in (0, width):
                twice = T.Shuffle([values], [first + j // 2 for j in range(self.width)])
                bits = T.reinterpret(f"uint32x{width}", twice)
                T.buffer_store(pairs, bits, [vector_at(i * self.width + first, width)])
        whole = f"float16x{self.width}"
        return lambda index: T.reinterpret(whole, T.Broadcast(pairs[index], width))

    def exponentiate(self) -> None:
        """Replace the scores by their exponentials, divided by the sum of these."""
        for u in self.vectors:
            self.total[u] = filled(0, self.width)

        def visit(first: Expr, count: int) -> None:
            for u in self.vectors:
                sums = []
                for i in range(count):
                    place = self.part(first + i, u)
                    weight = T.bind(exp_of_negative(self.scores[place] - self.largest[u]))
                    T.buffer_store(self.scores, weight, [place])
                    sums.append(weight)
                while len(sums) > 1:
                    sums = [sum(sums[i + 1 : i + 2], sums[i]) for i in range(0, len(sums), 2)]
                self.total[u] = self.total[u] + converted(sums[0], DType.FLOAT32)

        self.each_key_group(visit)
        shares = [filled(1, self.width) / self.total[u] for u in self.vectors]
        self.share([T.bind(converted(share, self.dtype)) for share in shares])

    def each_key_group(self, visit: Callable[[Expr, int], None]) -> None:
        """Call ``visit(first, count)`` for all keys, `SUMMED_KEYS` or the rest at a time."""
        whole, rest = divmod(self.key_tokens, SUMMED_KEYS)
        if whole:
            with T.serial(T.int64(0), T.int64(whole)) as group:
                visit(group * SUMMED_KEYS, SUMMED_KEYS)
        if rest:
            visit(T.int64(self.key_tokens - rest), rest)

    def average(
        self, value_panel: Callable[[Expr], Any], store: Callable[[Expr, Expr, Expr], None]
    ) -> None:
        """Compute the averages of the values, weighted by the exponentials."""
        vectors = len(self.vectors)

        def visit_tile(start: Expr, count: int) -> None:
            def places() -> Iterator[tuple[int, Expr, Expr]]:
                for i in range(count):
                    for u in self.vectors:
                        lanes = vector_at(T.int64(u * self.width), self.width)
                        yield i * vectors + u, start + i, lanes

            def add(block: Expr, keys: int | Expr) -> None:
                panel = value_panel(block)
                rows = Distances(lambda index: panel[index], start * self.lanes)
                factor = self.factors(rows, count)
                self.multiply(
                    keys,
                    count,
                    lambda j, i: factor(i * self.lanes + j),
                    lambda j, u: self.scores[self.part(block * self.lanes + j, u)],
                )

            def keep_sums() -> None:
                for a, _, _ in places():
                    if self.has_groups:
                        place = self.part(T.int64(0), a)
                        T.buffer_store(self.sums, self.sums[place] + self.acc[a], [place])

            if self.has_groups:
                for a in range(count * vectors):
                    zeros = self.across(number(0, self.dtype))
                    T.buffer_store(self.sums, zeros, [self.part(T.int64(0), a)])
            for blocks in self.each_sum():
                self.clear(count)
                for block, keys in blocks:
                    add(block, keys)
                keep_sums()
            for a, d, lanes in places():
                sum_of = self.sums[self.part(T.int64(0), a)] if self.has_groups else self.acc[a]
                store(sum_of, d, lanes)

        each_tile(self.head_dim, self.tile, visit_tile)

    def each_sum(self) -> Iterator[KeyBlocks]:
        """Yield the blocks, and how many keys each has, whose products are summed from zero."""
        whole, rest = divmod(self.key_tokens, self.lanes)
        groups, left = divmod(whole, self.group)
        if groups:
            with T.serial(T.int64(0), T.int64(groups)) as group:
                yield self.blocks_of(group * self.group, T.int64(self.group))
        if left or rest:
            yield self.blocks_of(T.int64(groups * self.group), T.int64(left), rest)

    def blocks_of(self, first: Expr, count: Expr, rest: int | Expr = 0) -> KeyBlocks:
        """Yield `count` whole blocks of keys, and the one behind them if `rest` keys are in it."""
        with T.serial(T.int64(0), count) as j:
            yield first + j, self.lanes
        if not isinstance(rest, int):
            with T.If(rest > 0), T.Then():
                yield first + count, rest
        elif rest:
            yield first + count, rest

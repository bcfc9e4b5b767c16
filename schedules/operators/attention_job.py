"""The loops of an attention's job: one head and one block of queries (see `Attention`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.quantization import NOT_ROUNDED, Roundings
from tvm_sparse.schedules.emit.buffers import Registers, filled, number, scratch
from tvm_sparse.schedules.emit.buffers import vector as vector_at
from tvm_sparse.schedules.emit.elementwise import rounded
from tvm_sparse.schedules.emit.sizes import size
from tvm_sparse.schedules.emit.tiles import each_tile, tile_height
from tvm_sparse.schedules.emit.transpose import transpose
from tvm_sparse.schedules.emit.vector_math import exp
from tvm_sparse.schedules.operators.panels import visit_panel

if TYPE_CHECKING:
    from tvm.ir import Expr

Element: TypeAlias = "Callable[[Expr, int], Expr]"
"""Returns the value or vector at an index, in vector `u` of the lanes."""


class AttentionJob:
    """The loops of one head and one block of queries; allocates scores and accumulators.

    Parameters
    ----------
    tokens, key_tokens : int
        Queries and keys of a sequence.
    head_dim : int
        Channels of a head.
    lanes : int
        Lanes of all panels, which are the queries of a block.
    cpu : CpuProfile
        Gives the vector length and the number of registers.
    roundings : Roundings
        The numbers that scores and weights are rounded to.
    """

    dtype = DType.FLOAT32

    def __init__(
        self,
        tokens: int,
        key_tokens: int,
        head_dim: int,
        lanes: int,
        cpu: CpuProfile,
        roundings: Roundings = NOT_ROUNDED,
    ) -> None:
        self.roundings = roundings
        self.tokens, self.key_tokens = tokens, key_tokens
        self.head_dim, self.lanes = head_dim, lanes
        self.width = math.gcd(lanes, cpu.vector_lanes(self.dtype))
        self.bias_width = math.gcd(lanes, cpu.vector_lanes(DType.FLOAT32))
        self.vectors = range(lanes // self.width)
        self.tile = tile_height(len(self.vectors), cpu)
        self.scores = self.score_memory()
        self.largest = Registers(len(self.vectors), self.width, self.dtype)
        self.total = Registers(len(self.vectors), self.width)
        self.acc = Registers(self.tile * len(self.vectors), self.width, self.dtype)

    def score_memory(self) -> Expr:
        """Allocate the scores."""
        return scratch(self.key_tokens * self.lanes, self.dtype)

    def key_count(self) -> Expr:
        """Return the number of keys."""
        return size(self.key_tokens)

    def configure(self) -> None:
        """Make the processor ready."""

    def begin(self, key_panel: Callable[[Expr], Any], value_panel: Callable[[Expr], Any]) -> None:
        """Prepare the keys and values of a head, which several blocks of queries may follow."""

    def end(self) -> None:
        """Leave the processor as it was before `configure`."""

    def as_score(self, bias: Expr) -> Expr:
        """Return a value or vector of the bias, float32, as one that is added to scores."""
        return bias

    def key_bias(self, bias: Callable[[Expr], Expr]) -> Element:
        """Return a bias that is the same for all queries, as an element of the scores."""
        return lambda key, _: self.across(self.as_score(bias(key)))

    def gather_bias(self, bias: Callable[[Expr, Expr], Expr], block: Expr) -> Element:
        """Transpose ``bias(query, key)`` of a block of queries into the scores."""
        first = block * self.lanes

        def move_tile(lane: int, valid: int, key: Expr) -> None:
            rows = [filled(0, self.bias_width)] * self.bias_width
            for i in range(valid):
                rows[i] = T.bind(bias(first + lane + i, vector_at(key, self.bias_width)))
            for j, values in enumerate(transpose(rows) if valid else rows):
                place = vector_at((key + j) * self.lanes + lane, self.bias_width)
                T.buffer_store(self.scores, self.as_score(values), [place])

        def move_value(lane: int, valid: bool, key: Expr) -> None:
            value = bias(first + lane, key) if valid else number(0)
            T.buffer_store(self.scores, self.as_score(value), [key * self.lanes + lane])

        sizes = (self.tokens, self.key_tokens, self.lanes, self.bias_width)
        visit_panel(block, *sizes, move_tile, move_value)
        return lambda key, u: self.scores[self.part(key, u)]

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
            self.largest[u] = self.across(number(-math.inf, self.dtype))
        query, factor = self.prepare(queries, scale)

        def visit_keys(block: Expr, panel: Callable[[Expr], Expr], start: Expr, count: int) -> None:
            keys = [block * self.lanes + start + i for i in range(count)]
            if visited is not None:
                for key in keys:
                    visited(key)
            self.clear(count)
            self.multiply(
                self.head_dim,
                count,
                lambda d, i: panel(d * self.lanes + start + i),
                query,
            )
            for i, key in enumerate(keys):
                for u in self.vectors:
                    score = self.acc[i * len(self.vectors) + u]
                    if factor is not None:
                        score = score * factor
                    score = rounded(T.bind(score), self.roundings.scores)
                    score = T.bind(score if added is None else score + added(key, u))
                    score = self.counted(rounded(score, self.roundings.biased), key)
                    T.buffer_store(self.scores, score, [self.part(key, u)])
                    self.largest[u] = T.max(self.largest[u], score)

        self.each_key_tile(key_panel, visit_keys)

    def counted(self, score: Expr, _key: Expr) -> Expr:
        """Return a score as it is kept."""
        return score

    def each_key_tile(
        self,
        key_panel: Callable[[Expr], Any],
        visit: Callable[[Expr, Callable[[Expr], Expr], Expr, int], None],
    ) -> None:
        """Call ``visit(block, panel, start, count)`` for tiles of keys that cover all of them."""

        def visit_keys(block: Expr, keys: int) -> None:
            panel = self.factors(key_panel(block))
            each_tile(keys, self.tile, lambda start, count: visit(block, panel, start, count))

        self.each_key_block(visit_keys)

    def prepare(self, queries: Any, scale: float) -> tuple[Element, Expr | None]:
        """Return the vectors of queries, and what their products with keys are multiplied by."""
        return lambda d, u: queries[self.part(d, u)], self.across(number(scale))

    def factors(self, panel: Any) -> Callable[[Expr], Expr]:
        """Return a function that returns an element of a panel in all lanes of a vector."""
        return lambda index: self.across(panel[index])

    def exponentiate(self) -> None:
        """Replace the scores by their exponentials and add these up."""
        for u in self.vectors:
            self.total[u] = self.across(number(0))
        with T.serial(T.int64(0), self.key_count()) as key:
            for u in self.vectors:
                weight = T.bind(exp(self.scores[self.part(key, u)] - self.largest[u]))
                T.buffer_store(self.scores, weight, [self.part(key, u)])
                self.total[u] = self.total[u] + weight
        if self.roundings.weights:
            self.share([T.bind(self.across(number(1)) / self.total[u]) for u in self.vectors])

    def share(self, shares: list[Expr]) -> None:
        """Multiply the exponentials by a vector for each vector of the lanes, and round them."""
        with T.serial(T.int64(0), self.key_count()) as key:
            for u in self.vectors:
                place = self.part(key, u)
                weight = rounded(T.bind(self.scores[place] * shares[u]), self.roundings.weights)
                T.buffer_store(self.scores, weight, [place])

    def average(
        self, value_panel: Callable[[Expr], Any], store: Callable[[Expr, Expr, Expr], None]
    ) -> None:
        """Compute the averages of the values, weighted by the exponentials."""
        shares = None
        if not self.roundings.weights:
            shares = [T.bind(self.across(number(1)) / self.total[u]) for u in self.vectors]

        def visit_tile(start: Expr, count: int) -> None:
            def visit_keys(block: Expr, keys: int | Expr) -> None:
                panel = self.factors(value_panel(block))
                self.multiply(
                    keys,
                    count,
                    lambda j, i: panel((start + i) * self.lanes + j),
                    lambda j, u: self.scores[self.part(block * self.lanes + j, u)],
                )

            self.clear(count)
            self.each_key_block(visit_keys)
            for i in range(count):
                for u in self.vectors:
                    result = self.acc[i * len(self.vectors) + u]
                    result = result if shares is None else result * shares[u]
                    store(result, start + i, vector_at(T.int64(u * self.width), self.width))

        each_tile(self.head_dim, self.tile, visit_tile)

    def clear(self, count: int) -> None:
        """Set the accumulators of `count` rows of a tile to 0."""
        for i in range(count * len(self.vectors)):
            self.acc[i] = self.across(number(0, self.dtype))

    def multiply(self, steps: int | Expr, count: int, factor: Element, source: Element) -> None:
        """Add up ``factor(step, i) * source(step, u)`` over the steps, for `count` factors i."""
        end = T.int64(steps) if isinstance(steps, int) else steps
        with T.serial(T.int64(0), end) as step:
            sources = [T.bind(source(step, u)) for u in self.vectors]
            for i in range(count):
                scalar = T.bind(factor(step, i))
                for u in self.vectors:
                    a = i * len(self.vectors) + u
                    self.acc[a] = self.acc[a] + scalar * sources[u]

    def each_key_block(self, visit: Callable[[Expr, Any], None]) -> None:
        """Call ``visit(block, keys)`` for the whole blocks of keys, then for the rest."""
        whole, rest = divmod(self.key_tokens, self.lanes)
        if whole:
            with T.serial(T.int64(0), T.int64(whole)) as block:
                visit(block, self.lanes)
        if rest:
            visit(T.int64(whole), rest)

    def across(self, value: Expr) -> Expr:
        """Return a vector with `value` in all lanes."""
        return T.Broadcast(value, self.width)

    def part(self, index: Expr, u: int) -> Expr:
        """Return the place of vector u of the lanes of a channel or a key."""
        return vector_at(index * self.lanes + u * self.width, self.width)

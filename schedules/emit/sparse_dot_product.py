"""The product of a sparse weight of integers and columns of words, by dot products of vectors.

A word of the weight holds neighbouring inputs of an output channel, such as a 1x4 block of bytes.
Words of zeros are left out. The loops::

    for place:                              # some columns of lanes
        for group of output channels:
            sums = 0                        # in registers
            for step:                       # a word of each channel, and where its inputs lie
                sums += dot products of vectors of words and the word

The sums are exact, as those of `dot_product`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.integers import DotProducts
from tvm_sparse.formats.sparse import OFFSET_UNIT, SparseLayout
from tvm_sparse.schedules.emit.buffers import argument, flat, opaque, prefetch, scratch, vector
from tvm_sparse.schedules.emit.dot_product import SumRegisters, add_dot_products
from tvm_sparse.schedules.emit.product import LEAST_SCRATCH, Part, Product, Sums, each_of_chunk
from tvm_sparse.schedules.emit.sparse_walk import PREFETCH_DISTANCE, load_step

if TYPE_CHECKING:
    from tvm.ir import Expr

WORD_BYTES = 6
"""Bytes of a word of the weight and of its offset."""


class SparseDotProduct(Product):
    """The product by dot products with the words that are not zero.

    Parameters
    ----------
    layout : SparseLayout
        The layout of the weight, in one K block of words.
    density : float
        Share of the weight's words that are not zero; only the cost of its bytes depends on it.
    columns : int
        Columns of a place.
    row_columns : int
        Columns come in rows of as many.
    chunks : int
        Parts of the output channels that different threads compute.
    dots : DotProducts
        The instruction.
    """

    tile_words = 1

    def __init__(
        self,
        layout: SparseLayout,
        density: float,
        columns: int,
        row_columns: int,
        chunks: int,
        dots: DotProducts,
    ) -> None:
        self.layout, self.density, self.columns, self.dots = layout, density, columns, dots
        self.row_columns, self.column_lanes = row_columns, dots.lanes
        self.share = -(-layout.groups // chunks)
        self.place_words = layout.k * columns * dots.lanes

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weight."""
        return int(WORD_BYTES * self.density * self.layout.n * self.layout.k)

    def declare_weight(self) -> None:
        """Declare the packed weight."""
        layout = self.layout
        size = layout.groups * layout.tiling.group
        self._slots = tirx.Var("slots", "int64")
        self._indptr = argument("indptr", layout.groups + 1, dtype="int32")
        self._channels = argument("channels", size, dtype="int32")
        self._offsets = argument("offsets", self._slots, dtype="uint16")
        self._values = argument("values", self._slots, dtype="int32")

    def allocate(self, rows: int) -> None:
        """Allocate the words and the sums of at most `rows` rows of columns."""
        words = -(-rows * self.row_columns // self.columns) * self.place_words
        self._words = scratch(max(words, LEAST_SCRATCH), "uint32")
        self._sums = scratch(LEAST_SCRATCH, "int32")
        count = self.layout.tiling.group * self.columns
        self._registers = SumRegisters(count, self.column_lanes)

    def keep(self, column: Expr, word: Expr, value: Expr) -> None:
        """Store a word of a column: those of the columns of a place lie side by side."""
        lanes = self.column_lanes
        place, beside = column // self.columns, column % self.columns
        at = place * self.place_words + (word * self.columns + beside) * lanes
        T.buffer_store(self._words, value, [vector(at, lanes)])

    def compute(
        self,
        rows: Expr,
        chunk: Expr | None,
        fill: Callable[[Part], None],
        store: Callable[[Sums], None],
    ) -> None:
        """Compute the product with rows of columns, as `Product.compute`."""
        fill(Part(0, self.layout.k))
        columns = T.bind(rows * self.row_columns)
        places = T.serial(T.int64(0), T.bind((columns + (self.columns - 1)) // self.columns))
        with places as place, each_of_chunk(chunk, self.share, self.layout.groups) as group:
            self._multiply(group, place)
            if self.row_columns % self.columns == 0:
                store(self._result(group, place, range(self.columns)))
            else:  # the last place may have columns that nobody filled
                left = opaque(T.min(T.int64(self.columns), columns - place * self.columns))
                with T.serial(T.int64(0), left) as column:
                    store(self._result(group, place, [column]))

    def _multiply(self, group: Expr, place: Expr) -> None:
        """Sum the products of a group at a place, and store the sums."""
        lanes, sums, size = self.column_lanes, self._registers, self.layout.tiling.group
        begin = T.bind(T.Cast("int64", self._indptr[group]))
        steps = T.bind(T.Cast("int64", self._indptr[group + 1]) - begin)
        offsets = flat(self._offsets[begin * size], self._slots, "uint16")
        values = flat(self._values[begin * size], self._slots, "int32")
        numbers = range(size * self.columns)
        for i in numbers:
            sums[i] = T.Broadcast(T.int32(0), lanes)
        start = T.bind(place * self.place_words)
        with T.serial(T.int64(0), steps) as step:
            by_element = self.dots.by_element
            if not by_element:
                prefetch(values[step * size + PREFETCH_DISTANCE])
            cut, joins = (size, OFFSET_UNIT, lanes), {"joins": by_element, "by_element": by_element}
            slots = load_step(offsets, values, step * size, *cut, **joins)
            for c, (offset, weight) in enumerate(slots):
                at = T.bind(start + offset)
                for b in range(self.columns):
                    i = c * self.columns + b
                    x = self._words[vector(at + b * lanes, lanes)]
                    sums[i] = add_dot_products(self.dots, sums[i], x, weight)
        for i in numbers:
            T.buffer_store(self._sums, sums[i], [vector(T.int64(i * lanes), lanes)])

    def _result(self, group: Expr, place: Expr, columns: Sequence[Expr | int]) -> Sums:
        """Return the sums of a group in some neighbouring columns of a place."""
        size, lanes = self.layout.tiling.group, self.column_lanes
        numbers = tuple(T.bind(place * self.columns + b) for b in columns)

        def channel_of(c: Expr) -> Expr:
            return T.bind(T.Cast("int64", self._channels[group * size + c]))

        def read(channel: Expr, column: int, count: int) -> Expr:
            first = channel * self.columns + columns[0] + column
            return self._sums[vector(first * lanes, count * lanes)]

        return Sums(channel_of, T.int64(size), numbers, read)

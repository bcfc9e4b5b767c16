"""The product of a packed weight of integers and columns of words, by dot products of vectors.

A column is a vector of lanes. The loops::

    for block of output channels:
        for two columns:
            sums = 0                            # in registers
            for word:                           # four bytes, or two integers of 16 bits
                sums += dot products of a vector of words and a word of each channel's weight

All sums are exact: none of the instructions saturates a product of such integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.integers import DotProducts
from tvm_sparse.schedules.emit.buffers import argument, opaque, scratch, vector
from tvm_sparse.schedules.emit.product import LEAST_SCRATCH, Part, Product, Sums, each_of_chunk

if TYPE_CHECKING:
    from tvm.ir import Expr

PLACE_COLUMNS = 2
"""Columns that meet a word of the weight together."""


class DotProduct(Product):
    """The product by dot products of vectors.

    Parameters
    ----------
    n : int
        Output channels.
    words : int
        Words of an output channel.
    channels : int
        Output channels of a block, for which `pack_words` packed the weight.
    row_columns : int
        Columns come in rows of as many.
    chunks : int
        Parts of the output channels that different threads compute.
    dots : DotProducts
        The instruction.
    """

    tile_words = 1

    def __init__(
        self, n: int, words: int, channels: int, row_columns: int, chunks: int, dots: DotProducts
    ) -> None:
        self.n, self.words, self.channels, self.dots = n, words, channels, dots
        self.row_columns, self.column_lanes = row_columns, dots.lanes
        self.blocks = -(-n // channels)
        self.share = -(-self.blocks // chunks)
        # Columns that start an odd number of vectors apart do not share the sets of L1.
        self.column_pitch = words | 1

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weight."""
        return 4 * self.blocks * self.channels * self.words

    def declare_weight(self) -> None:
        """Declare the packed weight."""
        shape = self.blocks, self.words, self.channels
        self.weight = argument("weight", *shape, dtype="int32")

    def allocate(self, rows: int) -> None:
        """Allocate the words and the sums of at most `rows` rows of columns."""
        words = rows * self.row_columns * self.column_pitch * self.column_lanes
        self._words = scratch(max(words, LEAST_SCRATCH), "uint32")
        self._sums = scratch(LEAST_SCRATCH, "int32")
        self._registers = SumRegisters(self.channels * PLACE_COLUMNS, self.column_lanes)

    def keep(self, column: Expr, word: Expr, value: Expr) -> None:
        """Store a word of a column, counted from the first that `fill` gets."""
        lanes = self.column_lanes
        place = (column * self.column_pitch + word) * lanes
        T.buffer_store(self._words, value, [vector(place, lanes)])

    def compute(
        self,
        rows: Expr,
        chunk: Expr | None,
        fill: Callable[[Part], None],
        store: Callable[[Sums], None],
    ) -> None:
        """Compute the product with rows of columns, as `Product.compute`."""
        fill(Part(0, self.words))
        with each_of_chunk(chunk, self.share, self.blocks) as block:
            for place, columns in self._each_place(rows):
                self._multiply(block, place, columns)
                store(self._result(block, place, columns))

    def _each_place(self, rows: Expr) -> Iterator[tuple[Expr, int]]:
        """Yield the number of every place and the number of its columns."""
        columns = T.bind(rows * self.row_columns)
        with T.serial(T.int64(0), columns // PLACE_COLUMNS) as place:
            yield place, PLACE_COLUMNS
        if self.row_columns % PLACE_COLUMNS:
            with T.If(columns % PLACE_COLUMNS != 0), T.Then():
                yield T.bind(columns // PLACE_COLUMNS), 1

    def _multiply(self, block: Expr, place: Expr, columns: int) -> None:
        """Sum the products of a block at a place, and store the sums."""
        lanes, sums = self.column_lanes, self._registers
        numbers = range(self.channels * columns)
        for i in numbers:
            sums[i] = T.Broadcast(T.int32(0), lanes)
        start = T.bind(place * (PLACE_COLUMNS * self.column_pitch * lanes))
        with T.serial(T.int64(0), T.int64(self.words)) as word:
            places = [start + (b * self.column_pitch + word) * lanes for b in range(columns)]
            held = [T.bind(self._words[vector(at, lanes)]) for at in places]
            for first, of_channels in self._weights(block, word):
                for c, weight in enumerate(of_channels, first):
                    for b, x in enumerate(held):
                        i = c * columns + b
                        sums[i] = add_dot_products(self.dots, sums[i], x, weight)
        for i in numbers:
            T.buffer_store(self._sums, sums[i], [vector(T.int64(i * lanes), lanes)])

    def _weights(self, block: Expr, word: Expr) -> Iterator[tuple[int, list[Expr]]]:
        """Yield the first of some channels, and the vectors of their words."""
        lanes = self.column_lanes
        if not self.dots.by_element:
            for c in range(self.channels):
                yield c, [T.bind(T.Broadcast(self.weight[block, word, c], lanes))]
            return
        for c in range(0, self.channels, lanes):
            loaded = T.bind(self.weight[block, word, vector(T.int64(c), lanes)])
            yield c, [T.Shuffle([loaded], [i] * lanes) for i in range(lanes)]

    def _result(self, block: Expr, place: Expr, columns: int) -> Sums:
        first, lanes = T.bind(block * self.channels), self.column_lanes
        channels = T.int64(self.channels)
        if self.n % self.channels:
            channels = opaque(T.min(channels, self.n - first))
        numbers = tuple(T.bind(place * PLACE_COLUMNS + b) for b in range(columns))

        def read(channel: Expr, column: int, count: int) -> Expr:
            return self._sums[vector((channel * columns + column) * lanes, count * lanes)]

        return Sums(lambda c: first + c, channels, numbers, read)


def add_dot_products(dots: DotProducts, sums: Expr, x: Expr, weight: Expr) -> Expr:
    """Return vectors of sums with the dot products of vectors of words added."""
    lanes = dots.lanes
    kind = f"int{32 // dots.per_word}x{dots.per_word * lanes}"
    operands = T.reinterpret(kind, x), T.reinterpret(kind, weight)
    if not dots.adds:
        return sums + T.call_llvm_pure_intrin(f"int32x{lanes}", dots.intrinsic, *operands)
    return T.call_llvm_pure_intrin(f"int32x{lanes}", dots.intrinsic, sums, *operands)


class SumRegisters:
    """Vectors of int32 sums in registers, as `Registers` holds floats."""

    def __init__(self, count: int, lanes: int) -> None:
        self._lanes = lanes
        self._buffers = [T.alloc_buffer((lanes,), "int32") for _ in range(count)]

    def __getitem__(self, i: int) -> Expr:
        return self._buffers[i][T.Ramp(0, 1, self._lanes)]

    def __setitem__(self, i: int, value: Expr) -> None:
        T.buffer_store(self._buffers[i], value, [T.Ramp(0, 1, self._lanes)])

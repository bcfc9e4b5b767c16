"""The product of a packed weight and columns of words on the matrix unit AMX.

A column is 16 lanes of a row of panels, with all input channels, of which a word holds two as
bfloat16 values or four as bytes. The loops::

    for group of output channels:           # its sums stay in L2
        for part of the input channels:
            for block of 32 output channels:    # its part of the weight stays in L1
                for two columns:
                    2 x 2 tiles = 0 (first part) or the sums so far
                    for 16 words:               # a tile
                        2 tiles of the weight and 2 of the columns are loaded and multiplied
                    sums = tiles

The last block may have one tile of output channels, and the last place one column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.formats.amx import BLOCK_TILES, TILE_CHANNELS, TILE_WORDS, tiles_of
from tvm_sparse.schedules.emit import amx
from tvm_sparse.schedules.emit.buffers import argument, opaque, prefetch, scratch, vector
from tvm_sparse.schedules.emit.product import LEAST_SCRATCH, Part, Product, Sums

if TYPE_CHECKING:
    from tvm.ir import Expr

COLUMN_LANES = 16
"""Lanes of a column."""

PLACE_COLUMNS = 2
"""Columns that meet a block of the weight together."""

GROUP_BLOCKS = 24
"""Blocks of 32 output channels of a group; their sums for 128 lanes take 400 KB."""

_BLOCK_CHANNELS = BLOCK_TILES * TILE_CHANNELS
_SUMS = _BLOCK_CHANNELS * PLACE_COLUMNS * COLUMN_LANES
"""Sums of a block at a place."""


class AmxProduct(Product):
    """The product on the matrix unit.

    Parameters
    ----------
    n : int
        Output channels.
    words : int
        Words of an output channel.
    part_words : int
        Words of a part, for which `pack_tiles` packed the weight.
    row_columns : int
        Columns come in rows of as many.
    chunks : int
        Parts of the output channels that different threads compute.
    numbers : Numbers
        What is multiplied.
    """

    column_lanes = COLUMN_LANES
    tile_words = TILE_WORDS

    def __init__(
        self,
        n: int,
        words: int,
        part_words: int,
        row_columns: int,
        chunks: int,
        numbers: amx.Numbers,
    ) -> None:
        self.n, self.row_columns, self.numbers = n, row_columns, numbers
        self.channel_tiles, self.input_tiles = tiles_of(n, TILE_CHANNELS), tiles_of(words, 16)
        self.part_tiles = min(part_words // TILE_WORDS, self.input_tiles)
        self.blocks = -(-self.channel_tiles // BLOCK_TILES)
        self.share = -(-self.blocks // chunks)
        # Several groups need the words of all parts again and again.
        # In a region, one thread computes all chunks.
        self.keeps_all_words = self.blocks > GROUP_BLOCKS
        kept = self.input_tiles if self.keeps_all_words else self.part_tiles
        # Columns that start an odd number of cache lines apart do not share the sets of L1.
        self.column_pitch = kept * TILE_WORDS + 1

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weight."""
        return amx.TILE_BYTES * self.channel_tiles * self.input_tiles

    def declare_weight(self) -> None:
        """Declare the packed weight."""
        tiles = self.channel_tiles * self.input_tiles
        inputs, dtype = TILE_WORDS * self.numbers.per_word, self.numbers.weight
        self.weight = argument("weight", tiles, TILE_CHANNELS, inputs, dtype=dtype)

    def allocate(self, rows: int) -> None:
        """Allocate the words and the sums of at most `rows` rows of columns."""
        columns = rows * self.row_columns
        self.places = -(-columns // PLACE_COLUMNS)
        words = columns * self.column_pitch * COLUMN_LANES
        self._words = scratch(max(words, LEAST_SCRATCH), "uint32")
        blocks = min(self.blocks, GROUP_BLOCKS) if self.part_tiles < self.input_tiles else 1
        self._sums = scratch(max(blocks * self.places * _SUMS, LEAST_SCRATCH), self.numbers.sums)

    def keep(self, column: Expr, word: Expr, value: Expr) -> None:
        """Store a word of a column, counted from the first that `fill` gets."""
        place = (column * self.column_pitch + word) * COLUMN_LANES
        T.buffer_store(self._words, value, [vector(place, COLUMN_LANES)])

    def begin(self) -> None:
        """Configure the registers of a thread."""
        amx.configure()

    def end(self) -> None:
        """Give the registers of a thread back."""
        amx.release()

    def compute(
        self,
        rows: Expr,
        chunk: Expr | None,
        fill: Callable[[Part], None],
        store: Callable[[Sums], None],
    ) -> None:
        """Compute the product with rows of columns, as `Product.compute`."""
        if self.keeps_all_words:
            fill(Part(0, self.input_tiles))
        for begin, blocks in self._each_group(chunk):
            for part in self._each_part():
                if not self.keeps_all_words:
                    fill(part)
                with T.serial(T.int64(0), blocks) as i:
                    block = T.bind(begin + i)
                    for tiles in self._each_height(block):
                        for place, columns in self._each_place(rows):
                            sums = self._sums_at(i, place, columns)
                            self._multiply(part, block, tiles, place, columns, sums)
                            if part.ends:
                                store(self._result(block, tiles, place, columns, sums))

    def _each_group(self, chunk: Expr | None) -> Iterator[tuple[Expr, Expr]]:
        """Yield the first block of every group of a chunk, and the number of its blocks."""
        first, count = T.int64(0), self.blocks
        if chunk is not None:
            first, count = T.bind(chunk * self.share), self.share
        end = T.min(first + count, T.int64(self.blocks))
        with T.serial(T.int64(0), T.int64(-(-count // GROUP_BLOCKS))) as group:
            begin = T.bind(first + group * GROUP_BLOCKS)
            yield begin, opaque(T.min(end - begin, T.int64(GROUP_BLOCKS)))

    def _each_part(self) -> Iterator[Part]:
        """Yield the parts of the words; those between the first and last are a loop."""
        total, most = self.input_tiles, self.part_tiles
        count = -(-total // most)
        yield Part(0, most, ends=count == 1)
        if count > 2:
            with T.serial(T.int64(1), T.int64(count - 1)) as i:
                yield Part(T.bind(i * most), most, begins=False, ends=False)
        if count > 1:
            first = (count - 1) * most
            yield Part(first, total - first, begins=False)

    def _each_height(self, block: Expr) -> Iterator[int]:
        """Yield the tiles of output channels of a block."""
        whole, rest = divmod(self.channel_tiles, BLOCK_TILES)
        if not (whole and rest):
            yield rest or BLOCK_TILES
            return
        with T.If(block < whole):
            with T.Then():
                yield BLOCK_TILES
            with T.Else():
                yield rest

    def _each_place(self, rows: Expr) -> Iterator[tuple[Expr, int]]:
        """Yield the number of every place and the number of its columns."""
        if self.row_columns % PLACE_COLUMNS == 0:
            with T.serial(T.int64(0), rows * (self.row_columns // PLACE_COLUMNS)) as place:
                yield place, PLACE_COLUMNS
            return
        columns = T.bind(rows * self.row_columns)
        with T.serial(T.int64(0), columns // PLACE_COLUMNS) as place:
            yield place, PLACE_COLUMNS
        with T.If(columns % PLACE_COLUMNS != 0), T.Then():
            yield T.bind(columns // PLACE_COLUMNS), 1

    def _sums_at(self, i: Expr, place: Expr, columns: int) -> Callable[[Expr, int], Expr]:
        """Return where the sums of a channel in a column start, of block `i` of a group."""
        number = i * self.places + place if self.part_tiles < self.input_tiles else 0
        start = T.bind(T.int64(0) + number * _SUMS)
        return lambda channel, column: start + (channel * columns + column) * COLUMN_LANES

    def _multiply(
        self,
        part: Part,
        block: Expr,
        tiles: int,
        place: Expr,
        columns: int,
        sums: Callable[[Expr, int], Expr],
    ) -> None:
        """Add the products of a part of the input channels to the sums of a block at a place."""
        row_bytes = columns * amx.ROW_BYTES
        results = [(a, b, a * PLACE_COLUMNS + b) for a in range(tiles) for b in range(columns)]
        for a, b, tile in results:
            if part.begins:
                amx.zero(tile)
            else:
                amx.load(tile, self._sums[sums(a * TILE_CHANNELS, b)], row_bytes)
        size = BLOCK_TILES * part.tiles
        first = T.bind(part.first * self.channel_tiles + block * size)
        skipped = part.first if self.keeps_all_words else 0
        column = place * PLACE_COLUMNS
        words = T.bind((column * self.column_pitch + skipped * TILE_WORDS) * COLUMN_LANES)
        # The places share the hints for the next block, of which a line is a row of a tile.
        lines = -(-BLOCK_TILES * TILE_CHANNELS // self.places)
        with T.serial(T.int64(0), T.int64(part.tiles)) as k:
            for a in range(tiles):
                amx.load(4 + a, self.weight[first + (k * tiles + a), 0, 0])
            for b in range(columns):
                distance = (b * self.column_pitch + k * TILE_WORDS) * COLUMN_LANES
                amx.load(6 + b, self._words[words + distance])
            for line in range(lines):
                ahead = (place * part.tiles + k) * lines + line
                prefetch(self.weight[first + size, ahead, 0], to_l1=False)
            for a, b, tile in results:
                amx.multiply(self.numbers, tile, 4 + a, 6 + b)
        for a, b, tile in results:
            amx.store(tile, self._sums[sums(a * TILE_CHANNELS, b)], row_bytes)

    def _result(
        self,
        block: Expr,
        tiles: int,
        place: Expr,
        columns: int,
        sums: Callable[[Expr, int], Expr],
    ) -> Sums:
        first = T.bind(block * _BLOCK_CHANNELS)
        channels = T.int64(tiles * TILE_CHANNELS)
        if self.n % TILE_CHANNELS:
            channels = opaque(T.min(channels, self.n - first))
        numbers = tuple(T.bind(place * PLACE_COLUMNS + b) for b in range(columns))

        def read(channel: Expr, column: int, count: int) -> Expr:
            return self._sums[vector(sums(channel, column), count * COLUMN_LANES)]

        return Sums(lambda c: first + c, channels, numbers, read)

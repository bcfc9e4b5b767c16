"""The base of the layers whose inputs become words of several values.

The loops::

    for pass over the rows of a thread:     # as many rows as some columns of lanes make
        for group of output channels, part of the input channels:
            words = inputs of the rows, some channels side by side
            sums += weight * words
            y = sums, in the last part after scale, bias, residual and activation

`tvm_sparse.schedules.emit.amx_product` and `tvm_sparse.schedules.emit.dot_product` have the inner
loops. Products of bfloat16 values are summed in float32, and those of integers exactly.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.columns.tiles import AnyRuns, Tiles
from tvm_sparse.dtypes import DType
from tvm_sparse.schedules.emit.buffers import argument, converted, filled, opaque, vector
from tvm_sparse.schedules.emit.expressions import bound
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.emit.product import Part, Product, Sums
from tvm_sparse.schedules.emit.words import Words
from tvm_sparse.schedules.operators.layer import LayerStage
from tvm_sparse.sizes.extent import Extent

if TYPE_CHECKING:
    from tvm.ir import Expr

PASSES_PER_CORE = 4
"""Passes of a core from which on threads share rows even if some get one pass less."""

CHUNK_CHANNELS = 32
"""Fewest output channels of a chunk."""


class WordLayer(LayerStage):
    """A layer whose output is a product of its weight and words of its input.

    Subclasses call `cut` in their constructors, and then set `product`.

    Attributes
    ----------
    words : Words
        How the values of the input become words.
    product : Product
        Multiplies them by the weight.
    """

    words: Words
    product: Product

    def cut(self, column_lanes: int, row_columns: int, pass_rows: int) -> None:
        """Choose how passes and threads share rows and output channels.

        Parameters
        ----------
        column_lanes : int
            Lanes of a column.
        row_columns : int
            Columns of an output row; several rows of fewer lanes share one.
        pass_rows : int
            The most rows of a pass.
        """
        images, rows, n = self.tensor.images, self.tensor.rows, self.tensor.channels
        self.column_lanes, self.row_columns = column_lanes, row_columns
        self.joined = max(1, column_lanes // self.tensor.lanes)
        self.pass_rows = max(1, pass_rows if isinstance(rows, Extent) else min(rows, pass_rows))
        self.tiles = Tiles(self.pass_rows, self.pass_rows)
        self.row_block = rows
        passes, cores = -(-rows // self.pass_rows), self.cpu.cores
        if images * passes % cores == 0 or images * passes > PASSES_PER_CORE * cores:
            self.row_block = -(-passes // cores) * self.pass_rows
        else:
            self.chunks = min(cores, -(-n // CHUNK_CHANNELS))

    def declare_weight(self) -> None:
        """Declare the packed weight and the bias."""
        self.product.declare_weight()
        self.declare_tables()
        has_bias, n = self.epilogue.bias, self.tensor.channels
        self.bias = argument("bias", n, dtype=self.tensor.dtype) if has_bias else None

    def declare_tables(self) -> None:
        """Declare the operands between the weight and the bias."""

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the words of the rows of a pass, and their sums."""
        super().allocate(run_rows)
        self.product.allocate(self.column_rows(min(self.pass_rows, self.most_rows)))

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        self.product.begin()
        passes: Expr = T.int64(-(-self.most_rows // self.pass_rows))
        if isinstance(self.run_rows, AnyRuns):
            passes = opaque((end - first + (self.pass_rows - 1)) // self.pass_rows)
        with T.serial(T.int64(0), passes) as i:
            row = T.bind(first + i * self.pass_rows)
            rows = opaque(T.min(end - row, T.int64(self.pass_rows)))
            with T.If(rows > 0), T.Then():
                self.gather(image, row, rows)
                self.product.compute(
                    self.column_rows(rows),
                    chunk if self.chunks > 1 else None,
                    fill=lambda part: self._fill(part, image, row, rows),
                    store=lambda sums: self._store(sums, y, image, row, rows),
                )
        self.product.end()

    def gather(self, image: Expr, row: Expr, rows: Expr) -> None:
        """Gather the inputs of `rows` output rows from `row` on, before the first `fill`."""
        del image, row, rows

    def _fill(self, part: Part, image: Expr, row: Expr, rows: Expr) -> None:
        self.begin_part(part, rows)
        self.fill(part, image, row, rows)

    def begin_part(self, part: Part, rows: Expr) -> None:
        """Do what comes before the words of a part of the inputs: by default, nothing."""
        del part, rows

    def keep(self, column: Expr, word: Expr, value: Expr) -> None:
        """Store a word of a column, counted from the first of the part."""
        self.product.keep(column, word, value)

    @abstractmethod
    def fill(self, part: Part, image: Expr, row: Expr, rows: Expr) -> None:
        """Store the words of a part of the inputs of `rows` output rows from `row` on."""

    def fill_up(self, part: Part, column: Expr, columns: int, words: int) -> None:
        """Store zeros behind the `words` words of a part, in some columns."""
        end = part.tiles * self.product.tile_words
        if words == end:
            return
        with T.serial(T.int64(words), T.int64(end)) as word:
            for i in range(columns):
                self.product.keep(column + i, word, T.Broadcast(T.uint32(0), self.column_lanes))

    def weight_bytes(self) -> int:
        """Return the bytes of the weight."""
        return self.product.weight_bytes

    def column_rows(self, rows: Any) -> Any:
        """Return the rows of columns that hold some rows of panels."""
        return rows if self.joined == 1 else (rows + (self.joined - 1)) // self.joined

    def rows_of(self, columns: Expr, rows: Expr) -> list[Expr]:
        """Return which of the `rows` rows of a pass share the lanes of a row of columns.

        A row that is missing behind the last one is replaced by the last one.
        """
        if self.joined == 1:
            return [columns]
        first = columns * self.joined
        return [first, *(T.min(first + i, rows - 1) for i in range(1, self.joined))]

    def in_floats(self, sums: Expr, channel: Expr, column: Expr) -> Expr:
        """Return sums of an output channel, in columns from `column` on, as float32 values."""
        del channel, column
        return sums

    def _store(self, sums: Sums, y: Panels, image: Expr, row: Expr, rows: Expr) -> None:
        """Store sums after the epilogue, whose activation has the panels' type."""
        count = len(sums.columns) if self.row_columns % len(sums.columns) == 0 else 1
        pieces = []
        for i in range(0, len(sums.columns), count):
            found = sums.columns[i] // self.row_columns
            column = T.bind(sums.columns[i] % self.row_columns)
            lanes = count * self.column_lanes // self.joined
            place = vector(T.bind(column * self.column_lanes), lanes)
            ats = [T.bind(row + at) for at in self.rows_of(found, rows)]
            outs = [(y.tile(image, at), self.residual_tile(image, at, 1)) for at in ats]
            pieces.append((i, column, place, outs))
        with T.serial(T.int64(0), sums.channels) as c:
            channel = sums.channel(c)
            for i, column, place, outs in pieces:
                value = self.in_floats(sums.vector(c, i, count), channel, sums.columns[i])
                if self.bias is not None:
                    bias = converted(self.bias[channel], DType.FLOAT32)
                    value = value + T.Broadcast(bias, count * self.column_lanes)
                if self.residual is not None:
                    held = side_by_side([r[0, channel, place] for _, r in outs if r is not None])
                    value = value + converted(held, DType.FLOAT32)
                value = self.epilogue.activate(T.bind(converted(value, self.tensor.dtype)))
                self._store_rows(value, channel, place, [out for out, _ in outs])
                self._store_unused(channel, column, count, outs[0][0])

    def _store_rows(self, value: Expr, channel: Expr, place: Expr, outs: list[Tile]) -> None:
        """Store a vector that holds the lanes of one row, or of several narrow ones."""
        if len(outs) == 1:
            outs[0].store(value, 0, channel, place)
            return
        value, lanes = bound(value), self.column_lanes // len(outs)
        # Rows behind the last one have its place and the values of its lanes.
        for i, out in enumerate(outs):
            part = T.Shuffle([value], list(range(i * lanes, (i + 1) * lanes)))
            out.store(part, 0, channel, place)

    def _store_unused(self, channel: Expr, column: Expr, count: int, out: Tile) -> None:
        """Store zeros in the lanes behind the columns: nobody reads them, but they are finite."""
        lanes = self.column_lanes
        unused = range(self.row_columns * lanes, self.tensor.lanes, lanes)
        if unused:
            with T.If(T.EQ(column, T.int64(self.row_columns - count))), T.Then():
                for lane in unused:
                    zeros = filled(0, lanes, self.tensor.dtype)
                    out.store(zeros, 0, channel, vector(T.int64(lane), lanes))


def side_by_side(vectors: list[Expr]) -> Expr:
    """Return the lanes of vectors of equal length as one vector."""
    if len(vectors) == 1:
        return vectors[0]
    lanes = len(vectors) * vectors[0].ty.dtype.lanes
    return T.Shuffle(vectors, list(range(lanes)))

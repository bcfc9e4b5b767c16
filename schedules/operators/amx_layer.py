"""The base of the layers on the matrix unit AMX.

The loops::

    for pass over the rows of a thread:     # as many rows as some columns of 16 lanes make
        for group of output channels, part of the input channels:
            pairs = inputs of the rows in bfloat16, two side by side
            sums += weight * pairs
            y = sums, in the last part after bias, residual and activation

`tvm_sparse.schedules.emit.amx_product` has the inner loops. Panels are float16; products of
bfloat16 values are summed in float32.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.dtypes import DType
from tvm_sparse.schedules.emit import amx
from tvm_sparse.schedules.emit.amx_product import COLUMN_LANES, AmxProduct, Part, Sums
from tvm_sparse.schedules.emit.buffers import argument, converted, filled, opaque, vector
from tvm_sparse.schedules.emit.expressions import bound
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.operators.layer import LayerStage

if TYPE_CHECKING:
    from tvm.ir import Expr

PASSES_PER_CORE = 4
"""Passes of a core from which on threads share rows even if some get one pass less."""

CHUNK_CHANNELS = 32
"""Fewest output channels of a chunk."""


class AmxLayer(LayerStage):
    """A layer on the matrix unit, float16, whose output is a product of its weight and pairs.

    Subclasses call `cut` in their constructors.
    """

    preparations = (amx.ask_permission,)

    def cut(self, pairs: int, inputs: int, row_columns: int, pass_rows: int) -> None:
        """Choose how passes and threads share rows and output channels.

        Parameters
        ----------
        pairs : int
            Pairs of weights of an output channel.
        inputs : int
            Input channels of a part, for which the weight is packed.
        row_columns : int
            Columns of 16 lanes of an output row; several rows of fewer lanes share one.
        pass_rows : int
            The most rows of a pass.
        """
        images, rows, n = self.tensor.images, self.tensor.rows, self.tensor.channels
        self.row_columns = row_columns
        self.joined = max(1, COLUMN_LANES // self.tensor.lanes)
        self.pass_rows = max(1, min(rows, pass_rows))
        self.tiles = Tiles(self.pass_rows, self.pass_rows)
        self.row_block = rows
        passes, cores = -(-rows // self.pass_rows), self.cpu.cores
        if images * passes % cores == 0 or images * passes > PASSES_PER_CORE * cores:
            self.row_block = -(-passes // cores) * self.pass_rows
        else:
            self.chunks = min(cores, -(-n // CHUNK_CHANNELS))
        self.product = AmxProduct(n, 2 * pairs, inputs, row_columns, self.chunks)

    def declare_weight(self) -> None:
        """Declare the packed weight and the bias."""
        self.product.declare_weight()
        self.declare_tables()
        has_bias, n = self.epilogue.bias, self.tensor.channels
        self.bias = argument("bias", n, dtype=self.tensor.dtype) if has_bias else None

    def declare_tables(self) -> None:
        """Declare the operands between the weight and the bias."""

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the pairs of the rows of a pass, and their sums."""
        super().allocate(run_rows)
        self.product.allocate(self.column_rows(min(self.pass_rows, self.most_rows)))

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        amx.configure()
        passes = -(-self.most_rows // self.pass_rows)
        with T.serial(T.int64(0), T.int64(passes)) as i:
            row = T.bind(first + i * self.pass_rows)
            rows = opaque(T.min(end - row, T.int64(self.pass_rows)))
            with T.If(rows > 0), T.Then():
                self.gather(image, row, rows)
                self.product.compute(
                    self.column_rows(rows),
                    chunk if self.chunks > 1 else None,
                    fill=lambda part: self.fill(part, image, row, rows),
                    store=lambda sums: self._store(sums, y, image, row, rows),
                )
        amx.release()

    def gather(self, image: Expr, row: Expr, rows: Expr) -> None:
        """Gather the inputs of `rows` output rows from `row` on, before the first `fill`."""
        del image, row, rows

    @abstractmethod
    def fill(self, part: Part, image: Expr, row: Expr, rows: Expr) -> None:
        """Store the pairs of a part of the inputs of `rows` output rows from `row` on."""

    def fill_up(self, part: Part, column: Expr, columns: int, pairs: Expr | int) -> None:
        """Store zeros behind the `pairs` pairs of a part, in some columns."""
        end = part.tiles * self.product.tile_pairs
        if isinstance(pairs, int) and pairs == end:
            return
        with T.serial(T.int64(0) + pairs, T.int64(end)) as pair:
            for i in range(columns):
                self.product.keep(column + i, pair, T.Broadcast(T.uint32(0), COLUMN_LANES))

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

    def _store(self, sums: Sums, y: Panels, image: Expr, row: Expr, rows: Expr) -> None:
        """Store sums as they are after the epilogue, whose activation is computed in float16."""
        count = len(sums.columns) if self.row_columns % len(sums.columns) == 0 else 1
        pieces = []
        for i in range(0, len(sums.columns), count):
            found = sums.columns[i] // self.row_columns
            column = T.bind(sums.columns[i] % self.row_columns)
            lanes = count * COLUMN_LANES // self.joined
            place = vector(T.bind(column * COLUMN_LANES), lanes)
            ats = [T.bind(row + at) for at in self.rows_of(found, rows)]
            outs = [(y.tile(image, at), self.residual_tile(image, at, 1)) for at in ats]
            pieces.append((i, column, place, outs))
        with T.serial(T.int64(0), sums.channels) as c:
            channel = sums.channel + c
            for i, column, place, outs in pieces:
                value = sums.vector(c, i, count)
                if self.bias is not None:
                    bias = converted(self.bias[channel], DType.FLOAT32)
                    value = value + T.Broadcast(bias, count * COLUMN_LANES)
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
        value, lanes = bound(value), COLUMN_LANES // len(outs)
        # Rows behind the last one have its place and the values of its lanes.
        for i, out in enumerate(outs):
            part = T.Shuffle([value], list(range(i * lanes, (i + 1) * lanes)))
            out.store(part, 0, channel, place)

    def _store_unused(self, channel: Expr, column: Expr, count: int, out: Tile) -> None:
        """Store zeros in the lanes behind the columns: nobody reads them, but they are finite."""
        unused = range(self.row_columns * COLUMN_LANES, self.tensor.lanes, COLUMN_LANES)
        if unused:
            with T.If(T.EQ(column, T.int64(self.row_columns - count))), T.Then():
                for lane in unused:
                    zeros = filled(0, COLUMN_LANES, self.tensor.dtype)
                    out.store(zeros, 0, channel, vector(T.int64(lane), COLUMN_LANES))


def side_by_side(vectors: list[Expr]) -> Expr:
    """Return the lanes of vectors of equal length as one vector."""
    if len(vectors) == 1:
        return vectors[0]
    lanes = len(vectors) * vectors[0].ty.dtype.lanes
    return T.Shuffle(vectors, list(range(lanes)))

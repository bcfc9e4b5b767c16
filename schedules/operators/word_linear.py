"""The base of linear layers on words: ``y[r, n, :] = act(sum_k w[n, k] x[r, k, :] + ...)``.

The columns are lanes of a row; `tvm_sparse.schedules.operators.word_layer` has the loops.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.schedules.emit.buffers import filled, vector
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.panel_memory import Tile
from tvm_sparse.schedules.emit.product import Part
from tvm_sparse.schedules.operators.word_layer import WordLayer, side_by_side
from tvm_sparse.sizes.tensor import RowMap, Tensor

if TYPE_CHECKING:
    from tvm.ir import Expr


class WordLinear(WordLayer):
    """A linear layer on words.

    Parameters
    ----------
    source : Tensor
        The input.
    n : int
        Output channels.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the number of cores.
    dtype : DType, optional
        The type of the result; by default, that of the input.
    """

    def __init__(
        self,
        source: Tensor,
        n: int,
        epilogue: Epilogue,
        cpu: CpuProfile,
        dtype: DType | None = None,
    ) -> None:
        result = replace(source, channels=n, dtype=dtype or source.dtype)
        super().__init__(source, RowMap(), result, epilogue, cpu)

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        return f"{self.name} channels={self.source.channels} {self.epilogue.key}"

    def fill(self, part: Part, image: Expr, row: Expr, rows: Expr) -> None:
        """Store the words of a part of the input channels of rows."""
        per_word = self.words.per_word
        tile_inputs = self.product.tile_words * per_word
        first = T.bind(T.int64(0) + part.first * tile_inputs)
        inputs = part.tiles * tile_inputs
        if part.ends:
            inputs = self.source.channels - part.first * tile_inputs
        whole, rest = divmod(inputs, per_word)
        with T.serial(T.int64(0), self.column_rows(rows)) as i:
            sources = [self.x.tile(image, row + at) for at in self.rows_of(i, rows)]
            column = T.bind(i * self.row_columns)
            with T.serial(T.int64(0), T.int64(whole)) as word:
                self._convert(sources, column, first + word * per_word, per_word, word)
            if rest:
                at = first + whole * per_word
                self._convert(sources, column, at, rest, T.int64(whole))
            self.fill_up(part, column, self.row_columns, -(-inputs // per_word))

    def _convert(
        self, sources: list[Tile], column: Expr, channel: Expr, count: int, word: Expr
    ) -> None:
        """Keep the words of `count` channels, and of zeros behind them, in all lanes of rows."""
        joined = len(sources)
        for lane, lanes in self.words.pieces(self.source.lanes * joined):
            at = vector(T.int64(lane), lanes // joined)
            values = [
                side_by_side([source[0, channel + i, at] for source in sources])
                for i in range(count)
            ]
            missing = self.words.per_word - count
            values += [filled(0, lanes, self.source.dtype)] * missing if missing else []
            self._keep(column, lane, word, self.words.of(values))

    def _keep(self, column: Expr, lane: int, word: Expr, vectors: list[Expr]) -> None:
        """Keep vectors of words of lanes from `lane` on; one may belong to several columns."""
        lanes = self.column_lanes
        for v in vectors:
            held = v.ty.dtype.lanes
            for start in range(0, held, lanes):
                part = v
                if held > lanes:
                    part = T.Shuffle([v], list(range(start, start + lanes)))
                self.keep(column + lane // lanes, word, part)
                lane += lanes

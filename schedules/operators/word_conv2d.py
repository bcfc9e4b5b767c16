"""The base of convolutions on words.

A pass gathers the input rows that its output rows see into a window of words, padded with zeros. A
column is some pixels of an output row; its words are copied from the window, one for each word of
weights. `tvm_sparse.schedules.operators.word_layer` has the other loops.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.word_window import WordWindow
from tvm_sparse.schedules.emit.buffers import argument
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.product import Part
from tvm_sparse.schedules.emit.window_words import WindowMemory
from tvm_sparse.schedules.operators.word_layer import WordLayer, side_by_side

if TYPE_CHECKING:
    from tvm.ir import Expr


class WordConv2d(WordLayer):
    """A convolution on words.

    Parameters
    ----------
    window : WordWindow
        How the convolution's input rows lie in the window.
    epilogue : Epilogue
        The bias, residual and activation that follow the product.
    cpu : CpuProfile
        Gives the number of cores.
    reads_image, writes_image : bool
        Whether input and output are images instead of panels.
    takes_words : bool
        Whether the input consists of words instead of activations.
    """

    def __init__(
        self,
        window: WordWindow,
        epilogue: Epilogue,
        cpu: CpuProfile,
        *,
        reads_image: bool,
        writes_image: bool,
        takes_words: bool = False,
    ) -> None:
        problem = window.problem
        source = problem.input
        if takes_words:
            source = replace(source, channels=window.channels, dtype=DType.WORDS)
        self.window, self.problem = window, problem.planned
        super().__init__(
            source,
            problem.rows_seen,
            problem.output,
            epilogue,
            cpu,
            reads_image=reads_image,
            writes_image=writes_image,
        )

    def declare_tables(self) -> None:
        """Declare the distances of the words."""
        self.distances = argument("distances", self.window.words, dtype="int32")

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the window, the words and the sums."""
        super().allocate(run_rows)
        self.memory = WindowMemory(self.window, self.words)
        self.memory.allocate(min(self.pass_rows, self.most_rows))

    def gather(self, image: Expr, row: Expr, rows: Expr) -> None:
        """Gather the input rows that some output rows see."""
        first = T.bind(row * self.problem.stride[0] - self.problem.padding[0])
        self.memory.gather(self.x, image, first, T.bind(self.window.rows(rows)))

    def fill(self, part: Part, image: Expr, row: Expr, rows: Expr) -> None:
        """Copy the words of a part of the weight from the window."""
        del image, row
        first = T.bind(T.int64(0) + part.first * self.product.tile_words)
        words = part.tiles * self.product.tile_words
        if part.ends:
            words = self.window.words - part.first * self.product.tile_words
        out_row_pitch = self.problem.stride[0] * self.window.row_pitch
        lanes = self.column_lanes // self.joined
        with T.serial(T.int64(0), self.column_rows(rows)) as i:
            column = T.bind(i * self.row_columns)
            bases = [T.bind(at * out_row_pitch) for at in self.rows_of(i, rows)]
            with T.serial(T.int64(0), T.int64(words)) as word:
                offset = T.bind(T.Cast("int64", self.distances[first + word]))
                for c in range(self.row_columns):
                    rows_held = [self.memory.read(base + offset, c, lanes) for base in bases]
                    self.keep(column + c, word, side_by_side(rows_held))
            self.fill_up(part, column, self.row_columns, words)

    def window_bytes(self) -> int:
        """Return the bytes that a run gathers its inputs into, for each of its rows."""
        return self.window.element_bytes * self.problem.stride[0] * self.window.row_pitch

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        return f"{self.name} of {self.problem.key} {self.epilogue.key}"

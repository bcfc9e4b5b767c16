"""The floats that words of integers stand for, with a scale and a zero point of run time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.costs.vectors import vector_cycles, vectors_of
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.words import WordForm
from tvm_sparse.schedules.emit.buffers import across, argument, converted
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.emit.row_vectors import each_vector
from tvm_sparse.schedules.emit.run_time_words import RunTimeSteps
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.tensor import RowMap, Tensor

if TYPE_CHECKING:
    from tvm.ir import Expr

OPERATIONS = 4.0
"""Vector operations for a vector of values: a shift, a mask, a conversion and a multiplication."""


class DequantizeWords(Stage):
    """``y = (integer - zero point) * scale`` for the integers of words.

    Parameters
    ----------
    source : Tensor
        Panels of words.
    channels : int
        Channels of the result.
    form : WordForm
        What words look like.
    dtype : DType
        The type of the result.
    cpu : CpuProfile
        Gives the vector length.
    """

    name = "dequantize_words"

    def __init__(
        self, source: Tensor, channels: int, form: WordForm, dtype: DType, cpu: CpuProfile
    ) -> None:
        self.form, self.cpu = form, cpu
        self.tensor = replace(source, channels=channels, dtype=dtype)
        self.panels = {"x": (source, RowMap())}
        lanes = source.lanes
        self.width = 1 if lanes == 1 else cpu.vector_width(lanes, source.dtype)

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare the operands."""
        self.x = panels("x")
        self.given = argument("steps", 2)

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        steps, per_word = RunTimeSteps(self.given, self.form), self.form.per_word
        whole, rest = divmod(self.tensor.channels, per_word)
        for row, _ in self.each_tile(first, end):
            source, out = self.x.tile(image, row), y.tile(image, row)
            for word, lane in each_vector(whole, self.tensor.lanes, self.width):
                self._store(source, out, steps, word, lane, per_word)
            for _, lane in each_vector(bool(rest), self.tensor.lanes, self.width):
                self._store(source, out, steps, T.int64(whole), lane, rest)

    def _store(
        self, x: Tile, y: Tile, steps: RunTimeSteps, word: Expr, lane: Expr, count: int
    ) -> None:
        """Store the first `count` values of a vector of words."""
        bits = 32 // self.form.per_word
        held = T.bind(x[0, word, lane])
        integers = T.bind(T.reinterpret(_type("int32", self.width), held))
        for i in range(count):
            # A shift to the left and one to the right keep the sign.
            part = T.shift_left(integers, across(T.int32(32 - bits * (i + 1)), self.width))
            if self.form.is_signed or self.form.per_word == 2:
                part = T.shift_right(part, across(T.int32(32 - bits), self.width))
            else:
                part = T.shift_right(integers, across(T.int32(bits * i), self.width))
                part = T.bitwise_and(part, across(T.int32((1 << bits) - 1), self.width))
            distance = part - across(steps.zero, self.width)
            value = T.Cast(_type("float32", self.width), distance) * across(steps.scale, self.width)
            channel = word * self.form.per_word + i
            y.store(converted(value, self.tensor.dtype), 0, channel, lane)

    def work(self) -> int:
        """Return how many values it computes."""
        return self.tensor.elements

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        return vector_cycles(vectors_of(self.tensor, self.cpu), 0, 1, OPERATIONS)


def _type(name: str, lanes: int) -> str:
    return f"{name}x{lanes}" if lanes > 1 else name

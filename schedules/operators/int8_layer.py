"""Quantized layers: ``y = act((sums - corrections) * scales + bias + residual)``.

Panels are float32 or float16. At the entrance they become the integers that the network's
quantization rounds them to; the products of integers are summed up exactly, as int32, and become
floats at the exit. An integer of panels stands for zero where it is the zero point, whose products
`corrections` are.

Where only an inference knows the scale and the zero point, panels are words of integers already,
and ``y = act((sums - corrections * zero) * (scales * scale) + bias + residual)``.

Weights that do not fit in bytes are shifted, by one number for each output channel. What their sums
lack is that number times the sum of all inputs, which is computed as the words are made.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.integers import dot_products
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.amx import pack_tiles
from tvm_sparse.formats.quantization import Quantization, RoundedBefore, shifts_of
from tvm_sparse.formats.sparse import PackedSparse
from tvm_sparse.formats.words import as_words, pack_words
from tvm_sparse.schedules.emit import amx
from tvm_sparse.schedules.emit.amx_product import COLUMN_LANES, AmxProduct
from tvm_sparse.schedules.emit.buffers import argument, scratch, vector
from tvm_sparse.schedules.emit.dot_product import DotProduct, add_dot_products
from tvm_sparse.schedules.emit.product import LEAST_SCRATCH, Part, Product
from tvm_sparse.schedules.emit.run_time_words import ReadyWords
from tvm_sparse.schedules.emit.sparse_dot_product import SparseDotProduct
from tvm_sparse.schedules.emit.words import Integers
from tvm_sparse.schedules.operators.word_layer import WordLayer
from tvm_sparse.tilings.int8_conv2d import AmxInt8Conv2dTiling
from tvm_sparse.tilings.int8_linear import AmxInt8LinearTiling
from tvm_sparse.tilings.integers import dots_of, word_form
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_int8 import SparseInt8Tiling, word_layout

if TYPE_CHECKING:
    from tvm.ir import Expr

ON_MATRIX_UNIT = AmxInt8LinearTiling, AmxInt8Conv2dTiling


Steps: TypeAlias = Quantization | RoundedBefore
"""The numbers that a layer's input is rounded to, or that it comes as words of integers."""


def integers_for(steps: Steps, tiling: Any, cpu: CpuProfile) -> Integers | ReadyWords:
    """Return how the values of panels become words for the kernel of a tiling."""
    if isinstance(steps, RoundedBefore):
        return ReadyWords(word_form(cpu))
    if isinstance(tiling, ON_MATRIX_UNIT):
        return Integers(steps)
    dots = dot_products(cpu)
    if dots is None:
        raise ValueError("the target has no dot products of integers")
    return Integers(steps, dots.per_word, dots.is_signed)


def packed_int8(
    values: NDArray[Any], steps: Quantization | None, tiling: Any, cpu: CpuProfile
) -> tuple[NDArray[Any], ...]:
    """Return a weight ``[N, K]`` as a kernel reads it, and behind it the corrections ``[N]``.

    The weight is an array, or the arrays of a `PackedSparse` of words. Corrections are the products
    of the weight and inputs of zero, which the sums contain. If only an inference knows the steps,
    it multiplies the corrections by the byte that stands for zero. Values of int16 are shifted for
    kernels of bytes, see `shifts_of`, with zeros that fill up the last word.
    """
    words = None if steps is None else integers_for(steps, tiling, cpu)
    zero = words.zero_byte if isinstance(words, Integers) else 1
    corrections = (values.sum(axis=1, dtype=np.int64) * zero).astype(np.int32)
    is_on_unit = isinstance(tiling, ON_MATRIX_UNIT)
    is_of_bytes = is_on_unit or dots_of(cpu).per_word == 4
    if is_of_bytes and values.dtype != np.int8:
        whole = np.pad(values, ((0, 0), (0, -values.shape[1] % 4)))
        values = (whole - shifts_of(values)[:, None]).astype(np.int8)
    if is_on_unit:
        return pack_tiles(values, tiling.inputs), corrections
    integers = values.astype(np.int8 if is_of_bytes else np.int16)
    if isinstance(tiling, SparseInt8Tiling):
        matrix = as_words(integers)
        n, k = matrix.shape
        layout = word_layout(n, k, tiling, cpu)
        return *PackedSparse.pack(matrix, layout).arrays, corrections
    return pack_words(integers, tiling.channels), corrections


class Int8Layer(WordLayer):
    """A quantized layer; a subclass is also a linear layer or a convolution on words."""

    layer: Layer[Any]
    words: Integers | ReadyWords

    def of_integers(self, steps: Steps, tiling: Any, words: int, *, is_shifted: bool) -> None:
        """Choose the product of an output channel of some words; called after `cut`."""
        self.steps, self.is_shifted = steps, is_shifted
        self.product = self._product(tiling, words)

    def _product(self, tiling: Any, words: int) -> Product:
        n, cut = self.tensor.channels, (self.row_columns, self.chunks)
        if isinstance(tiling, ON_MATRIX_UNIT):
            self.preparations = (amx.ask_permission,)
            return AmxProduct(n, words, tiling.inputs // 4, *cut, amx.BYTES)
        dots = dots_of(self.cpu)
        if isinstance(tiling, SparseInt8Tiling):
            layout = word_layout(n, words, tiling, self.cpu)
            return SparseDotProduct(layout, self.layer.word_density, tiling.columns, *cut, dots)
        return DotProduct(n, words, tiling.channels, *cut, dots)

    @staticmethod
    def column_lanes_of(tiling: Any, cpu: CpuProfile) -> int:
        """Return the lanes of a column."""
        dots = dot_products(cpu)
        return COLUMN_LANES if isinstance(tiling, ON_MATRIX_UNIT) or dots is None else dots.lanes

    def declare_tables(self) -> None:
        """Declare scales and corrections."""
        super().declare_tables()
        n = self.tensor.channels
        self.scales = argument("scales", n)
        self.corrections = argument("corrections", n, dtype="int32")
        self.shifts = argument("shifts", n, dtype="int32") if self.is_shifted else None
        is_given = isinstance(self.words, ReadyWords)
        self.given = argument("run_time_steps", 2) if is_given else None

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate memory, and read what only an inference knows."""
        super().allocate(run_rows)
        if isinstance(self.words, ReadyWords):
            self.words.read(self.given)
        if self.is_shifted:
            columns = self.column_rows(min(self.pass_rows, self.most_rows)) * self.row_columns
            size = max(columns * self.column_lanes, LEAST_SCRATCH)
            self._of_inputs = scratch(size, "int32")

    def begin_part(self, part: Part, rows: Expr) -> None:
        """Set the sums of the inputs to zero before the first part."""
        if not (self.is_shifted and part.begins):
            return
        columns = self.column_rows(rows) * self.row_columns
        with T.serial(T.int64(0), columns) as column:
            zeros = T.Broadcast(T.int32(0), self.column_lanes)
            T.buffer_store(self._of_inputs, zeros, [self._place(column, 1)])

    def keep(self, column: Expr, word: Expr, value: Expr) -> None:
        """Store a word of a column, and add its integers to the sum of the inputs."""
        super().keep(column, word, value)
        if self.is_shifted:
            place = self._place(column, 1)
            ones = T.Broadcast(T.uint32(0x01010101), self.column_lanes)
            total = add_dot_products(dots_of(self.cpu), self._of_inputs[place], value, ones)
            T.buffer_store(self._of_inputs, total, [place])

    def _place(self, column: Expr, count: int) -> Expr:
        return vector(column * self.column_lanes, count * self.column_lanes)

    def in_floats(self, sums: Expr, channel: Expr, column: Expr) -> Expr:
        """Return sums of integers as the float32 values that they stand for."""
        lanes = sums.ty.dtype.lanes
        correction, scale = self.corrections[channel], self.scales[channel]
        if isinstance(self.words, ReadyWords):
            known = self.words.steps
            correction, scale = correction * known.zero, scale * known.scale
        if self.shifts is not None:
            of_inputs = self._of_inputs[self._place(column, lanes // self.column_lanes)]
            sums = sums + of_inputs * T.Broadcast(self.shifts[channel], lanes)
        exact = sums - T.Broadcast(correction, lanes)
        return T.Cast(f"float32x{lanes}", exact) * T.Broadcast(scale, lanes)

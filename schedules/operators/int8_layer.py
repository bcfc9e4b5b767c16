"""Quantized layers: ``y = act((sums - corrections) * scales + bias + residual)``.

Panels are float32 or float16. At the entrance they become the integers that the network's
quantization rounds them to; the products of integers are summed up exactly, as int32, and become
floats at the exit. An integer of panels stands for zero where it is the zero point, whose products
`corrections` are.

Where only an inference knows the scale and the zero point, panels are words of integers already,
and ``y = act((sums - corrections * zero) * (scales * scale) + bias + residual)``.
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
from tvm_sparse.formats.quantization import Quantization, RoundedBefore
from tvm_sparse.formats.sparse import PackedSparse
from tvm_sparse.formats.words import as_words, pack_words
from tvm_sparse.schedules.emit import amx
from tvm_sparse.schedules.emit.amx_product import COLUMN_LANES, AmxProduct
from tvm_sparse.schedules.emit.buffers import argument
from tvm_sparse.schedules.emit.dot_product import DotProduct
from tvm_sparse.schedules.emit.product import Product
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
    values: NDArray[np.int8], steps: Quantization | None, tiling: Any, cpu: CpuProfile
) -> tuple[NDArray[Any], ...]:
    """Return a weight ``[N, K]`` as a kernel reads it, and behind it the corrections ``[N]``.

    The weight is an array, or the arrays of a `PackedSparse` of words. Corrections are the products
    of the weight and inputs of zero, which the sums contain. If only an inference knows the steps,
    it multiplies the corrections by the byte that stands for zero.
    """
    words = None if steps is None else integers_for(steps, tiling, cpu)
    zero = words.zero_byte if isinstance(words, Integers) else 1
    corrections = (values.sum(axis=1, dtype=np.int64) * zero).astype(np.int32)
    if isinstance(tiling, ON_MATRIX_UNIT):
        return pack_tiles(values, tiling.inputs), corrections
    integers = values.astype(np.int8 if dots_of(cpu).per_word == 4 else np.int16)
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

    def of_integers(self, steps: Steps, tiling: Any, words: int) -> None:
        """Choose the product of an output channel of some words; called after `cut`."""
        self.steps = steps
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
        is_given = isinstance(self.words, ReadyWords)
        self.given = argument("run_time_steps", 2) if is_given else None

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate memory, and read what only an inference knows."""
        super().allocate(run_rows)
        if isinstance(self.words, ReadyWords):
            self.words.read(self.given)

    def in_floats(self, sums: Expr, channel: Expr) -> Expr:
        """Return sums of integers as the float32 values that they stand for."""
        lanes = sums.ty.dtype.lanes
        correction, scale = self.corrections[channel], self.scales[channel]
        if isinstance(self.words, ReadyWords):
            known = self.words.steps
            correction, scale = correction * known.zero, scale * known.scale
        exact = sums - T.Broadcast(correction, lanes)
        return T.Cast(f"float32x{lanes}", exact) * T.Broadcast(scale, lanes)

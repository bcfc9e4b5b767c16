"""Quantized layers: ``y = act((sums - corrections) * scales + bias + residual)``.

Panels are float32 or float16. At the entrance they become the integers that the network's
quantization rounds them to; the products of integers are summed up exactly, as int32, and become
floats at the exit. An integer of panels stands for zero where it is the zero point, whose products
`corrections` are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.integers import dot_products
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.amx import pack_tiles
from tvm_sparse.formats.quantization import Quantization
from tvm_sparse.formats.sparse import PackedSparse
from tvm_sparse.formats.words import as_words, pack_words
from tvm_sparse.schedules.emit import amx
from tvm_sparse.schedules.emit.amx_product import COLUMN_LANES, AmxProduct
from tvm_sparse.schedules.emit.buffers import argument
from tvm_sparse.schedules.emit.dot_product import DotProduct
from tvm_sparse.schedules.emit.product import Product
from tvm_sparse.schedules.emit.sparse_dot_product import SparseDotProduct
from tvm_sparse.schedules.emit.words import Integers
from tvm_sparse.schedules.operators.word_layer import WordLayer
from tvm_sparse.tilings.int8_conv2d import AmxInt8Conv2dTiling
from tvm_sparse.tilings.int8_linear import AmxInt8LinearTiling
from tvm_sparse.tilings.integers import dots_of
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_int8 import SparseInt8Tiling, word_layout

if TYPE_CHECKING:
    from tvm.ir import Expr

ON_MATRIX_UNIT = AmxInt8LinearTiling, AmxInt8Conv2dTiling


def integers_for(steps: Quantization, tiling: Any, cpu: CpuProfile) -> Integers:
    """Return how the values of panels become words for the kernel of a tiling."""
    if isinstance(tiling, ON_MATRIX_UNIT):
        return Integers(steps)
    dots = dot_products(cpu)
    if dots is None:
        raise ValueError("the target has no dot products of integers")
    return Integers(steps, dots.per_word, dots.is_signed)


def packed_int8(
    values: NDArray[np.int8], steps: Quantization, tiling: Any, cpu: CpuProfile
) -> tuple[NDArray[Any], ...]:
    """Return a weight ``[N, K]`` as a kernel reads it, and behind it the corrections ``[N]``.

    The weight is an array, or the arrays of a `PackedSparse` of words. Corrections are the products
    of the weight and inputs of zero, which the sums contain.
    """
    words = integers_for(steps, tiling, cpu)
    corrections = (values.sum(axis=1, dtype=np.int64) * words.zero_byte).astype(np.int32)
    if isinstance(tiling, ON_MATRIX_UNIT):
        return pack_tiles(values, tiling.inputs), corrections
    integers = values.astype(np.int8 if words.per_word == 4 else np.int16)
    if isinstance(tiling, SparseInt8Tiling):
        matrix = as_words(integers)
        n, k = matrix.shape
        layout = word_layout(n, k, tiling, cpu)
        return *PackedSparse.pack(matrix, layout).arrays, corrections
    return pack_words(integers, tiling.channels), corrections


class Int8Layer(WordLayer):
    """A quantized layer; a subclass is also a linear layer or a convolution on words."""

    layer: Layer[Any]

    def of_integers(self, steps: Quantization, tiling: Any, words: int) -> None:
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

    def in_floats(self, sums: Expr, channel: Expr) -> Expr:
        """Return sums of integers as the float32 values that they stand for."""
        lanes = sums.ty.dtype.lanes
        exact = sums - T.Broadcast(self.corrections[channel], lanes)
        return T.Cast(f"float32x{lanes}", exact) * T.Broadcast(self.scales[channel], lanes)

"""What the kernel families of quantized layers share: what they refuse, and their rates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.cpu.integers import DotProducts, dot_products, has_byte_matrix_unit
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.density import word_density_of
from tvm_sparse.formats.word_window import WordWindow
from tvm_sparse.formats.words import WordForm
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.tilings.family import Family, SizesT, TilingT
from tvm_sparse.tilings.layer import Layer

CONVERSION_CYCLES = 18.0
"""Cycles in which a core makes a vector of words of integers from vectors of panels."""

COPY_CYCLES = 5.0
"""Cycles in which a core copies a vector of words from the window to a column."""

DOT_SHARE = 0.8
"""Share of two vector instructions a cycle that the kernels of dot products reach."""

PASS_BYTES = 1 << 18
"""Bytes of the words of all columns of a pass, which stay in L2."""
LEAST_LANES, MOST_LANES = 32, 128
"""Lanes that meet a block of the weight while it is in L1."""

STRIDES = (1, 2, 4)
"""The steps, in pixels, that a window of words takes from one output to the next."""


class IntegerFamily(Family[SizesT, TilingT]):
    """Kernels of quantized layers, which multiply integers and sum them up exactly.

    Attributes
    ----------
    on_matrix_unit : bool
        Whether the matrix unit computes them.
    """

    on_matrix_unit: ClassVar[bool]

    def refusal(self, layer: Layer[Any], cpu: CpuProfile) -> str:
        """Return why the family cannot compute a layer; an empty string if it can."""
        if not layer.is_quantized:
            return "the layer is not quantized"
        if self.on_matrix_unit and not has_byte_matrix_unit(cpu):
            return "the target has no AMX int8 unit"
        if not self.on_matrix_unit and dot_products(cpu) is None:
            return "the target has no dot products of integers"
        if layer.is_dynamic and self.per_word(cpu) != word_form(cpu).per_word:
            return "dynamic quantization makes words of 4 integers, for the matrix unit"
        if layer.is_dynamic and self._pairs_pixels(layer.problem, cpu):
            return "a window of pairs of pixels is not quantized dynamically"
        if layer.is_wide and self.per_word(cpu) == 4 and not self.takes_wide(cpu):
            return "integers of its weight do not fit in a byte"
        return super().refusal(layer, cpu)

    def takes_wide(self, cpu: CpuProfile) -> bool:
        """Return whether kernels of bytes shift weights that do not fit, and sum up the inputs."""
        dots = dot_products(cpu)
        return not self.is_sparse and dots is not None and dots.per_word == 4

    def _pairs_pixels(self, problem: Any, cpu: CpuProfile) -> bool:
        """Return whether a window of words consists of pairs of pixels."""
        if not isinstance(problem, Conv2d):
            return False
        return WordWindow(problem, self.per_word(cpu), self.lanes(cpu)).pairs_pixels

    def lanes(self, cpu: CpuProfile) -> int:
        """Return the lanes of a column."""
        return 16 if self.on_matrix_unit else dots_of(cpu).lanes

    def per_word(self, cpu: CpuProfile) -> int:
        """Return the integers of a word."""
        return 4 if self.on_matrix_unit else dots_of(cpu).per_word

    def refusal_of_lanes(self, cpu: CpuProfile, *lanes: int) -> str:
        """Return why columns take no panels of some lanes; an empty string if they do."""
        whole = self.lanes(cpu)
        odd = [count for count in lanes if count % whole and (count < 4 or whole % count)]
        return f"{odd[0]} lanes are no multiple of {whole}" if odd else ""

    def refusal_of_window(self, problem: Conv2d) -> str:
        """Return why no window of words serves a convolution; an empty string if one does."""
        if problem.groups > 1:
            return "the kernels of integers compute no convolutions of several groups"
        if problem.stride[1] not in STRIDES:
            return f"a window of words takes no steps of {problem.stride[1]} pixels"
        return ""


def word_density(problem: Any, values: NDArray[np.int8], cpu: CpuProfile) -> float:
    """Return the share of the words of a quantized layer's weight that are not zero.

    It is 1 where no kernel skips words: for convolutions of groups, and for processors without dot
    products.
    """
    dots = dot_products(cpu)
    if dots is None or (isinstance(problem, Conv2d) and problem.groups > 1):
        return 1.0
    if isinstance(problem, Conv2d):
        matrix = WordWindow(problem, dots.per_word, dots.lanes).matrix(values)
    else:
        matrix = values.reshape(problem.n, problem.k)
    return word_density_of(matrix, dots.per_word)


def word_form(cpu: CpuProfile) -> WordForm:
    """Return what words look like that are made before a layer, for all kernels of a target."""
    dots = dot_products(cpu)
    if dots is None or has_byte_matrix_unit(cpu):
        return WordForm()
    return WordForm(dots.per_word, dots.is_signed)


def dots_of(cpu: CpuProfile) -> DotProducts:
    """Return the dot products of a processor that has them."""
    found = dot_products(cpu)
    assert found is not None
    return found


def block_channels(n: int, cpu: CpuProfile) -> int:
    """Return the output channels of a block of dot products.

    Two columns of sums then fill most of the registers.
    """
    most = 12 if cpu.vector_registers >= 32 else 6
    if dots_of(cpu).by_element:
        return min(most, -(-n // 4) * 4)
    blocks = -(-n // most)
    return -(-n // blocks)


def smaller_blocks(channels: int, cpu: CpuProfile) -> Iterator[int]:
    """Yield the output channels of a block and of smaller ones, of at least four."""
    step = 4 if dots_of(cpu).by_element else 2
    yield channels
    yield from (count for count in range(channels - step, 3, -step))


def dot_cycles(n: int, words: int, columns: float, channels: int) -> float:
    """Return the cycles of the dot products of a weight and columns of words."""
    blocks = -(-n // channels)
    return blocks * columns * words * (channels / 2 / DOT_SHARE)


def pass_lanes(words: int) -> int:
    """Return the lanes that are computed together."""
    return min(max(PASS_BYTES // (4 * words), LEAST_LANES), MOST_LANES)

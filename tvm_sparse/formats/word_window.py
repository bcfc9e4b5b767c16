"""A convolution as a product of a packed weight and gathered words of 32 bits.

A word holds several values: two bfloat16 or int16, or four int8. The input rows that some output
rows see are kept in a *window* of such values, with zeros around the image. A kernel copies from
it, for some output pixels at a time, the words of values that the words of weights meet. The
distances of these words from the first one are a table.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.sizes.conv2d import Conv2d

COLUMN_PIXELS = 16
"""Output pixels of a column of the matrix unit."""


@dataclass(frozen=True)
class WordWindow:
    """How input rows lie in the window, ``[rows, channels, planes, pitch]``.

    An element of the window is a word of some channels of a pixel; a plane then holds every
    ``stride``-th pixel. Where that takes more words of two values, an element is a value, and a
    word consists of two pixels of a channel. These lie side by side if neighbouring outputs are two
    pixels apart.

    Attributes
    ----------
    problem : Conv2d
        The convolution, of one group.
    per_word : int
        Values of a word.
    lanes : int
        Output pixels of a column.
    """

    problem: Conv2d
    per_word: int = 2
    lanes: int = COLUMN_PIXELS

    @functools.cached_property
    def pairs_pixels(self) -> bool:
        """Whether words consist of two pixels."""
        problem = self.problem
        if self.per_word != 2:
            return False
        kh, kw = problem.kernel
        by_pixels = problem.channels * kh * -(-kw // 2)
        by_channels = kh * kw * -(-problem.channels // 2)
        fits = problem.stride[1] == 2 and problem.dilation[1] == 1
        return fits and by_pixels < by_channels

    @functools.cached_property
    def words(self) -> int:
        """Words of weights of an output channel."""
        kh, kw = self.problem.kernel
        across = -(-kw // 2) if self.pairs_pixels else kw
        return self.channels * kh * across

    @functools.cached_property
    def channels(self) -> int:
        """Channels, or words of channels, of a row of the window."""
        channels = self.problem.channels
        return channels if self.pairs_pixels else -(-channels // self.per_word)

    @functools.cached_property
    def planes(self) -> int:
        """Planes of a channel."""
        return 1 if self.pairs_pixels else self.problem.stride[1]

    @functools.cached_property
    def columns(self) -> int:
        """Columns in a row of the output."""
        return -(-self.problem.out_width // self.lanes)

    @functools.cached_property
    def step(self) -> int:
        """Elements from the words of a column to those of the next column; a vector's elements."""
        return self.lanes * (2 if self.pairs_pixels else 1)

    @property
    def element_bytes(self) -> int:
        """Bytes of an element."""
        return 2 if self.pairs_pixels else 4

    @functools.cached_property
    def pitch(self) -> int:
        """Elements of a plane, in whole vectors."""
        problem = self.problem
        reach = (problem.kernel[1] - 1) * problem.dilation[1]
        seen = 2 * -(-problem.kernel[1] // 2) if self.pairs_pixels else reach // self.planes
        held = -(-(problem.padding[1] + problem.lanes_in) // self.planes)
        return -(-max(self.columns * self.step + seen, held) // self.step) * self.step

    @functools.cached_property
    def channel_pitch(self) -> int:
        """Elements from a channel, or word of channels, to the next."""
        return self.planes * self.pitch

    @functools.cached_property
    def row_pitch(self) -> int:
        """Elements from a row to the next."""
        return self.channels * self.channel_pitch

    def rows(self, out_rows: int) -> int:
        """Return how many input rows `out_rows` output rows see."""
        problem = self.problem
        reach = (problem.kernel[0] - 1) * problem.dilation[0] + 1
        return (out_rows - 1) * problem.stride[0] + reach

    def offsets(self) -> NDArray[np.int32]:
        """Return the distance of every word from the first pixel of the first row, ``[words]``."""
        kh, kw = self.problem.kernel
        rows = np.arange(kh) * self.problem.dilation[0] * self.row_pitch
        channels = np.arange(self.channels) * self.channel_pitch
        if self.pairs_pixels:
            places = np.arange(0, kw, 2)
            grid = rows[:, None, None] + channels[None, :, None] + places[None, None, :]
        else:
            pixels = np.arange(kw) * self.problem.dilation[1]
            places = pixels % self.planes * self.pitch + pixels // self.planes
            grid = rows[:, None, None] + places[None, :, None] + channels[None, None, :]
        return grid.reshape(-1).astype("int32")

    def matrix(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Return a weight ``[N, C, kh, kw]`` as ``[N, values]``, in the order of `offsets`."""
        n = len(weight)
        order = (0, 2, 1, 3) if self.pairs_pixels else (0, 2, 3, 1)
        ordered = weight.transpose(order)
        padding = [(0, 0)] * 3 + [(0, -ordered.shape[3] % self.per_word)]
        return np.pad(ordered, padding).reshape(n, self.values)

    @property
    def values(self) -> int:
        """Values of the words of an output channel."""
        return self.words * self.per_word

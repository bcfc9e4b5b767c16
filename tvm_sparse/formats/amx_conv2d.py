"""A convolution as a product of a packed weight and gathered pairs, for the matrix unit AMX.

The input rows that some output rows see are kept in a *window* as bfloat16 values, with zeros
around the image. A kernel copies from it, for 16 output pixels at a time, the pairs of values that
the pairs of weights meet. The distances of these pairs from the first one are a table.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.sizes.conv2d import Conv2d

COLUMN_PIXELS = 16
"""Output pixels of a column."""


@dataclass(frozen=True)
class AmxWindow:
    """How input rows lie in the window, ``[rows, channels, planes, pitch]``.

    An element of the window is a pair of two channels of a pixel, 32 bits; a plane then holds every
    ``stride``-th pixel. Where that takes more pairs, an element is a value, and a pair consists of
    two pixels of a channel. These lie side by side if neighbouring outputs are two pixels apart.

    Attributes
    ----------
    problem : Conv2d
        The convolution, of one group.
    """

    problem: Conv2d

    @functools.cached_property
    def pairs_pixels(self) -> bool:
        """Whether pairs consist of two pixels."""
        problem = self.problem
        kh, kw = problem.kernel
        by_pixels = problem.channels * kh * -(-kw // 2)
        by_channels = kh * kw * -(-problem.channels // 2)
        fits = problem.stride[1] == 2 and problem.dilation[1] == 1
        return fits and by_pixels < by_channels

    @functools.cached_property
    def pairs(self) -> int:
        """Pairs of weights of an output channel."""
        kh, kw = self.problem.kernel
        across = -(-kw // 2) if self.pairs_pixels else kw
        return self.channels * kh * across

    @functools.cached_property
    def channels(self) -> int:
        """Channels, or pairs of channels, of a row of the window."""
        return self.problem.channels if self.pairs_pixels else -(-self.problem.channels // 2)

    @functools.cached_property
    def planes(self) -> int:
        """Planes of a channel."""
        return 1 if self.pairs_pixels else self.problem.stride[1]

    @functools.cached_property
    def columns(self) -> int:
        """Columns of 16 pixels in a row of the output."""
        return -(-self.problem.out_width // COLUMN_PIXELS)

    @functools.cached_property
    def step(self) -> int:
        """Elements from the pairs of a column to those of the next column; a vector's elements."""
        return COLUMN_PIXELS * (2 if self.pairs_pixels else 1)

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
        """Elements from a channel, or pair of channels, to the next."""
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
        """Return the distance of every pair from the first pixel of the first row, ``[pairs]``."""
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

    def matrix(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a weight ``[N, C, kh, kw]`` as ``[N, 2 * pairs]``, in the order of `offsets`."""
        n = len(weight)
        order = (0, 2, 1, 3) if self.pairs_pixels else (0, 2, 3, 1)
        ordered = weight.transpose(order)
        padding = [(0, 0)] * 3 + [(0, ordered.shape[3] % 2)]
        return np.pad(ordered, padding).reshape(n, 2 * self.pairs)

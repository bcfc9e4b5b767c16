"""A window in which a vector spans several rows of an image.

A row of 14 pixels fills half of a vector of 32 values, and a row of 7 pixels a quarter. A vector
then holds rows of several parts of a tile: of 14 rows, a vector of two holds the first and the
eighth, the next one the second and the ninth. So the next row of each of them is the next vector.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.phased_window import PhasedWindow

LEAST_LANES = 8
"""Fewest lanes of a row: those of the narrowest panels."""


@dataclass(frozen=True)
class JoinedWindow(PhasedWindow):
    """The input rows of a tile, stored ``[channels, phases, planes, rows, parts, lanes]``.

    The output rows of a tile are cut into `joined` equal parts, and a vector of outputs has a row
    of each part; through each weight it meets one vector of inputs, at one distance. The zeros
    behind a row are those in front of the next.
    """

    @functools.cached_property
    def pitch(self) -> int:
        """Lanes from one row to the next: a part of a vector, or whole vectors."""
        lanes = self.problem.lanes_out
        if not self.shifted:
            held = -(-self.problem.width // self.problem.stride[1])
            last = self.problem.out_width + max(shift for _, shift in self._reads)
            lanes = max(held + self.lead, last, lanes)
        return row_lanes(lanes, self.width)

    @property
    def joined(self) -> int:
        """Parts of a tile: output rows of a vector; 0 if a row takes more than a vector."""
        return self.width // self.pitch

    @property
    def row_step(self) -> int:
        """Elements from a row of a part to the next: a vector, which holds rows of all parts."""
        return self.width

    @property
    def steps(self) -> int:
        """Rows of the largest part."""
        return self.vectors

    @functools.cached_property
    def vectors(self) -> int:
        """Vectors of the outputs of a tile."""
        return self.vectors_of(self.tile_rows)

    def vectors_of(self, out_rows: int) -> int:
        """Return the vectors that hold `out_rows` output rows: the rows of the largest part."""
        return -(-out_rows // self.joined)

    @functools.cached_property
    def held(self) -> int:
        """Elements of the memory, with what the last vector reads in front of and behind rows."""
        return self.front + self.channels * self.channel_pitch + 2 * self.width


def row_lanes(lanes: int, width: int) -> int:
    """Return the fewest lanes that hold `lanes` lanes and divide a vector, or whole vectors."""
    part = LEAST_LANES
    while part < min(lanes, width):
        part *= 2
    return part if part <= width and part >= lanes else -(-lanes // width) * width


def joins_rows(problem: Conv2d, width: int) -> bool:
    """Return whether a vector of `width` values holds several output rows of a convolution."""
    return row_lanes(problem.lanes_out, width) < width

"""A window in which a vector spans several rows of an image.

A row of 14 pixels fills half of a vector of 32 values, and a row of 7 pixels a quarter. A vector
then holds rows of several parts of a tile: of 14 rows, a vector of two holds the first and the
eighth, the next one the second and the ninth. So the next row of each of them is the next vector.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from tvm_sparse.sizes.conv2d import Conv2d, Window

LEAST_LANES = 8
"""Fewest lanes of a row: those of the narrowest panels."""


@dataclass(frozen=True)
class JoinedWindow(Window):
    """The input rows of a tile, stored ``[channels, phases, planes, rows, parts, lanes]``.

    The output rows of a tile are cut into `joined` equal parts, and a vector of outputs has a row
    of each part; through each weight it meets one vector of inputs, at one distance. Phases are to
    rows what planes are to pixels: a phase holds every ``stride``-th row, so that the inputs of
    neighbouring output rows are neighbours. The zeros behind a row are those in front of the next.

    Attributes
    ----------
    tile_rows : int
        Output rows of a tile; the pitch of a channel follows from it.
    """

    tile_rows: int = field(default=1, kw_only=True)

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

    @functools.cached_property
    def phases(self) -> tuple[int, ...]:
        """The rows of the window, modulo the stride, that output rows see."""
        return tuple(sorted({row % self.problem.stride[0] for row in self._rows}))

    @functools.cached_property
    def phase_rows(self) -> int:
        """Input rows of a phase that the largest part sees."""
        return self.vectors + max(self._rows) // self.problem.stride[0]

    @functools.cached_property
    def plane_pitch(self) -> int:
        """Elements from one plane of a phase to the next."""
        return self.phase_rows * self.width

    @functools.cached_property
    def channel_pitch(self) -> int:
        """Elements from one channel to the next."""
        return len(self.phases) * len(self.origins) * self.plane_pitch

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

    def offset(self, channel: int, dy: int, dx: int) -> int:
        """Return the place of a weight's first input, in elements from ``front - lead`` on."""
        plane, shift = self._reads[dx]
        row, stride = self._rows[dy], self.problem.stride[0]
        plane += self.phases.index(row % stride) * len(self.origins)
        place = plane * self.plane_pitch + row // stride * self.width
        return channel * self.channel_pitch + place + shift + self.lead

    @functools.cached_property
    def _rows(self) -> tuple[int, ...]:
        """The row of the window that output row 0 sees through every vertical kernel position."""
        return tuple(dy * self.problem.dilation[0] for dy in range(self.problem.kernel[0]))


def row_lanes(lanes: int, width: int) -> int:
    """Return the fewest lanes that hold `lanes` lanes and divide a vector, or whole vectors."""
    part = LEAST_LANES
    while part < min(lanes, width):
        part *= 2
    return part if part <= width and part >= lanes else -(-lanes // width) * width


def joins_rows(problem: Conv2d, width: int) -> bool:
    """Return whether a vector of `width` values holds several output rows of a convolution."""
    return row_lanes(problem.lanes_out, width) < width

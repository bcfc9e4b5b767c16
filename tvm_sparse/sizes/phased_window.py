"""A window of a whole tile, in which all rows of a channel lie together."""

from __future__ import annotations

import functools
from abc import abstractmethod
from dataclasses import dataclass, field

from tvm_sparse.sizes.conv2d import Window


@dataclass(frozen=True)
class PhasedWindow(Window):
    """The input rows of a tile, stored ``[channels, phases, planes, rows]``.

    Phases are to rows what planes are to pixels: a phase holds every ``stride``-th row, so that the
    inputs of neighbouring output rows are neighbours.

    Attributes
    ----------
    tile_rows : int
        Output rows of a tile; the pitch of a channel follows from it.
    """

    tile_rows: int = field(default=1, kw_only=True)

    @property
    @abstractmethod
    def row_step(self) -> int:
        """Elements from a row of a plane to the next."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Rows of a plane that the first row of the kernel sees."""

    @functools.cached_property
    def phases(self) -> tuple[int, ...]:
        """The rows of the window, modulo the stride, that output rows see."""
        return tuple(sorted({row % self.problem.stride[0] for row in self._rows}))

    @functools.cached_property
    def phase_rows(self) -> int:
        """Rows of a plane of a phase."""
        return self.steps + max(self._rows) // self.problem.stride[0]

    @functools.cached_property
    def plane_pitch(self) -> int:
        """Elements from one plane of a phase to the next."""
        return self.phase_rows * self.row_step

    @functools.cached_property
    def channel_pitch(self) -> int:
        """Elements from one channel to the next."""
        return len(self.phases) * len(self.origins) * self.plane_pitch

    def offset(self, channel: int, dy: int, dx: int) -> int:
        """Return the place of a weight's first input, in elements from ``front - lead`` on."""
        plane, shift = self._reads[dx]
        row, stride = self._rows[dy], self.problem.stride[0]
        plane += self.phases.index(row % stride) * len(self.origins)
        place = plane * self.plane_pitch + row // stride * self.row_step
        return channel * self.channel_pitch + place + shift + self.lead

    @functools.cached_property
    def _rows(self) -> tuple[int, ...]:
        """The row of the window that output row 0 sees through every vertical kernel position."""
        return tuple(dy * self.problem.dilation[0] for dy in range(self.problem.kernel[0]))

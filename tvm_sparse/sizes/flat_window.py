"""A window in which the rows of an image follow one another without gaps of unused lanes.

A row of 20 pixels takes two vectors of 16 lanes, of which 12 lanes are idle. Vectors over the
pixels of all rows, one row after another, leave only the zeros between two rows idle.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from tvm_sparse.sizes.phased_window import PhasedWindow


@dataclass(frozen=True)
class FlatWindow(PhasedWindow):
    """The input rows of a run of output rows, stored ``[channels, phases, planes, rows, pitch]``.

    The output in place ``row * pitch + pixel`` meets the input of a weight at one distance. The
    zeros behind a row are those in front of the next one. Places between the rows have outputs,
    too, which nobody reads.
    """

    @functools.cached_property
    def pitch(self) -> int:
        """Places from one row to the next."""
        held = -(-self.problem.width // self.problem.stride[1])
        last = self.problem.out_width + max(shift for _, shift in self._reads)
        return max(held + self.lead, last)

    @property
    def row_step(self) -> int:
        """Elements from a row of a plane to the next."""
        return self.pitch

    @property
    def steps(self) -> int:
        """Rows of a plane that the first row of the kernel sees."""
        return self.tile_rows

    @property
    def vectors(self) -> int:
        """Vectors of the outputs of the longest run."""
        return self.vectors_of(self.tile_rows)

    def vectors_of(self, out_rows: int) -> int:
        """Return the vectors over the outputs of `out_rows` rows."""
        return -(-((out_rows - 1) * self.pitch + self.problem.out_width) // self.width)

    @functools.cached_property
    def end(self) -> int:
        """The place behind the last row of the last channel."""
        return self.front + self.channels * self.channel_pitch

    def held(self, vectors: int) -> int:
        """Return the elements of the memory, from which `vectors` vectors of outputs are read."""
        kh, kw = self.problem.kernel
        taps = (self.offset(self.channels - 1, dy, dx) for dy in range(kh) for dx in range(kw))
        read = self.front - self.lead + max(taps) + vectors * self.width
        # A row is stored in whole vectors.
        return -(-max(read, self.end + self.width) // self.width) * self.width

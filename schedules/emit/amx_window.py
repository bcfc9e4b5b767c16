"""The memory of a window of bfloat16 values, see `AmxWindow`: how it is filled and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.formats.amx_conv2d import AmxWindow
from tvm_sparse.schedules.emit.bfloat16_pairs import PAIRS, bfloat16_of, pairs_of
from tvm_sparse.schedules.emit.buffers import HEAP_LEAST_BYTES, masked, scratch, vector
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile

if TYPE_CHECKING:
    from tvm.ir import Expr

_PIECE = 32
"""Pixels that are converted together."""


class WindowMemory:
    """The memory of a window.

    Parameters
    ----------
    window : AmxWindow
        Its extents.
    """

    def __init__(self, window: AmxWindow) -> None:
        self.window = window
        self._dtype = "uint16" if window.pairs_pixels else "uint32"

    def allocate(self, out_rows: int) -> None:
        """Allocate the memory for the inputs of at most `out_rows` output rows."""
        self._most_rows = self.window.rows(out_rows)
        size = self._most_rows * self.window.row_pitch
        least = HEAP_LEAST_BYTES // self.window.element_bytes
        self._memory = scratch(max(size, least), self._dtype)

    def pairs(self, start: Expr, column: int, count: int) -> Expr:
        """Return the first pairs of a column, `start` being the place of those of column 0."""
        step = self.window.step
        held = self._memory[vector(start + column * step, count * step // PAIRS)]
        return T.reinterpret(f"uint32x{count}", held) if self.window.pairs_pixels else held

    def gather(self, x: Panels, image: Expr, first: Expr, rows: Expr) -> None:
        """Store `rows` input rows from `first` on; those outside of the image are zeros."""
        window = self.window
        with T.serial(T.int64(0), T.int64(self._most_rows)) as i, T.If(i < rows), T.Then():
            row = T.bind(first + i)
            start = T.bind(i * window.row_pitch)
            with T.If(T.And(row >= 0, row < window.problem.height)):
                with T.Then():
                    source = x.tile(image, row)
                    with T.serial(T.int64(0), T.int64(window.channels)) as channel:
                        self._store_channel(source, channel, start + channel * window.channel_pitch)
                with T.Else():
                    vectors = window.row_pitch // window.step
                    with T.serial(T.int64(0), T.int64(vectors)) as v:
                        self._zero(start + v * window.step)

    def _store_channel(self, x: Tile, channel: Expr, start: Expr) -> None:
        """Store a row of a channel, or of a pair of channels, and the zeros around it."""
        window, problem = self.window, self.window.problem
        start = T.bind(start)
        for plane in range(window.planes):
            for at in self._margins(plane):
                self._zero(start + (plane * window.pitch + at))
        for pixel in range(0, problem.width, _PIECE):
            count = min(_PIECE, problem.lanes_in - pixel)
            if window.pairs_pixels:
                values = bfloat16_of(x[0, channel, vector(T.int64(pixel), count)])
                self._put(self._inside(values, pixel), start + (problem.padding[1] + pixel))
                continue
            lanes = vector(T.int64(pixel), count)
            # Behind an odd number of channels, the last one meets weights that are zero.
            other = T.min(channel * 2 + 1, T.int64(problem.channels - 1))
            pairs = pairs_of(x[0, channel * 2, lanes], x[0, other, lanes])
            inside = [self._inside(v, pixel + i * PAIRS) for i, v in enumerate(pairs)]
            self._split(inside, start, pixel, count)

    def _inside(self, values: Expr, pixel: int) -> Expr:
        """Return the values of pixels from `pixel` on; those behind the image are zeros."""
        dtype = values.ty.dtype
        zeros = T.Broadcast(getattr(T, self._dtype)(0), dtype.lanes)
        return masked(values, max(self.window.problem.width - pixel, 0), zeros)

    def _split(self, vectors: list[Expr], start: Expr, pixel: int, count: int) -> None:
        """Store vectors of pairs of `count` pixels from `pixel` on in their planes."""
        window = self.window
        planes, lead = window.planes, window.problem.padding[1]
        for first in range(planes):
            plane, place = (pixel + first + lead) % planes, (pixel + first + lead) // planes
            at = start + (plane * window.pitch + place)
            if planes == 1:
                for i, v in enumerate(vectors):
                    self._put(v, at + i * PAIRS)
                continue
            self._put(T.Shuffle(vectors, list(range(first, count, planes))), at)

    def _margins(self, plane: int) -> list[int]:
        """Return the places of vectors of a plane that the pixels of a row do not fill."""
        window, problem = self.window, self.window.problem
        lead = problem.padding[1]
        pixels = -(-problem.width // _PIECE) * _PIECE
        filled_to = min(pixels, problem.lanes_in) + lead
        first = -(-(lead - plane) // window.planes)
        end = -(-(filled_to - plane) // window.planes)
        starts = range(0, window.pitch, window.step)
        return [at for at in starts if at < first or at + window.step > end]

    def _zero(self, at: Expr) -> None:
        zero = T.Broadcast(getattr(T, self._dtype)(0), self.window.step)
        T.buffer_store(self._memory, zero, [vector(at, self.window.step)])

    def _put(self, values: Expr, at: Expr) -> None:
        T.buffer_store(self._memory, values, [vector(at, values.ty.dtype.lanes)])

"""The memory of a window of words, see `WordWindow`: how it is filled and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.formats.word_window import WordWindow
from tvm_sparse.schedules.emit.buffers import HEAP_LEAST_BYTES, masked, scratch, vector
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.emit.sizes import factor
from tvm_sparse.schedules.emit.words import Words

if TYPE_CHECKING:
    from tvm.ir import Expr


class WindowMemory:
    """The memory of a window.

    Parameters
    ----------
    window : WordWindow
        Its extents.
    words : Words
        How the values of panels become words.
    """

    def __init__(self, window: WordWindow, words: Words) -> None:
        self.window, self.words = window, words
        self._dtype = "uint16" if window.pairs_pixels else "uint32"

    def allocate(self, out_rows: int) -> None:
        """Allocate the memory for the inputs of at most `out_rows` output rows."""
        self._most_rows = self.window.rows(out_rows)
        size = self._most_rows * self.window.row_pitch
        least = HEAP_LEAST_BYTES // self.window.element_bytes
        self._memory = scratch(max(size, least), self._dtype)

    def read(self, start: Expr, column: int, count: int) -> Expr:
        """Return the first words of a column, `start` being the place of those of column 0."""
        step, lanes = self.window.step, self.window.lanes
        held = self._memory[vector(start + column * step, count * step // lanes)]
        return T.reinterpret(f"uint32x{count}", held) if self.window.pairs_pixels else held

    def gather(self, x: Panels, image: Expr, first: Expr, rows: Expr) -> None:
        """Store `rows` input rows from `first` on; those outside of the image are zeros."""
        window = self.window
        with T.serial(T.int64(0), T.int64(self._most_rows)) as i, T.If(i < rows), T.Then():
            row = T.bind(first + i)
            start = T.bind(i * window.row_pitch)
            with T.If(T.And(row >= 0, row < factor(x.tensor.rows))):
                with T.Then():
                    source = x.tile(image, row)
                    with T.serial(T.int64(0), T.int64(window.channels)) as channel:
                        self._store_channel(source, channel, start + channel * window.channel_pitch)
                with T.Else():
                    vectors = window.row_pitch // window.step
                    with T.serial(T.int64(0), T.int64(vectors)) as v:
                        self._zero(start + v * window.step)

    def _store_channel(self, x: Tile, channel: Expr, start: Expr) -> None:
        """Store a row of a channel, or of a word of channels, and the zeros around it."""
        window, problem = self.window, self.window.problem
        start = T.bind(start)
        for plane in range(window.planes):
            for at in self._margins(plane):
                self._zero(start + (plane * window.pitch + at))
        for pixel, count in self._pieces():
            lanes = vector(T.int64(pixel), count)
            if window.pairs_pixels:
                values = self.words.halves(x[0, channel, lanes])
                self._put(self._inside(values, pixel), start + (problem.padding[1] + pixel))
                continue
            per_word, last = self.words.per_word, T.int64(problem.channels - 1)
            # Channels that are missing behind the last one meet weights that are zero.
            channels = [T.min(channel * per_word + i, last) for i in range(per_word)]
            words = self.words.of([x[0, of, lanes] for of in channels])
            held = words[0].ty.dtype.lanes
            inside = [self._inside(v, pixel + i * held) for i, v in enumerate(words)]
            self._split(inside, start, pixel, count)

    def _pieces(self) -> list[tuple[int, int]]:
        """Return the first pixel and the pixels of all pieces that hold pixels of the image."""
        problem = self.window.problem
        return [piece for piece in self.words.pieces(problem.lanes_in) if piece[0] < problem.width]

    def _inside(self, values: Expr, pixel: int) -> Expr:
        """Return the values of pixels from `pixel` on; those behind the image are zeros."""
        zeros = self._zeros(values.ty.dtype.lanes)
        return masked(values, max(self.window.problem.width - pixel, 0), zeros)

    def _split(self, vectors: list[Expr], start: Expr, pixel: int, count: int) -> None:
        """Store vectors of words of `count` pixels from `pixel` on in their planes."""
        window = self.window
        planes, lead = window.planes, window.problem.padding[1]
        for first in range(planes):
            plane, place = (pixel + first + lead) % planes, (pixel + first + lead) // planes
            at = start + (plane * window.pitch + place)
            if planes == 1:
                for i, v in enumerate(vectors):
                    self._put(v, at + i * v.ty.dtype.lanes)
                continue
            self._put(T.Shuffle(vectors, list(range(first, count, planes))), at)

    def _margins(self, plane: int) -> list[int]:
        """Return the places of vectors of a plane that the pixels of a row do not fill."""
        window, problem = self.window, self.window.problem
        lead, (pixel, count) = problem.padding[1], self._pieces()[-1]
        filled_to = pixel + count + lead
        first = -(-(lead - plane) // window.planes)
        end = -(-(filled_to - plane) // window.planes)
        starts = range(0, window.pitch, window.step)
        return [at for at in starts if at < first or at + window.step > end]

    def _zeros(self, lanes: int) -> Expr:
        if self.window.pairs_pixels:
            return T.Broadcast(T.uint16(0), lanes)
        return self.words.zeros(lanes)

    def _zero(self, at: Expr) -> None:
        step = self.window.step
        T.buffer_store(self._memory, self._zeros(step), [vector(at, step)])

    def _put(self, values: Expr, at: Expr) -> None:
        T.buffer_store(self._memory, values, [vector(at, values.ty.dtype.lanes)])

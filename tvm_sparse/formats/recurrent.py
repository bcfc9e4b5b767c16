"""Packed recurrent weights: the gates of a tile of hidden units lie together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOWS = {16: 32, 8: 8}
"""Values of a state among which a permutation of vectors of so many lanes chooses: AVX-512 permutes
two vectors, AVX2 one."""

MOST_WINDOW = max(WINDOWS.values())
"""Values of the largest window; a state has as many zeros behind its last hidden unit."""

MOST_VECTORS = 4
"""Vectors whose choices lie in the four bytes of one word."""


def tile_starts(hidden: int, units: int) -> list[int]:
    """Return the first hidden unit of each tile; the last tile overlaps the one before it."""
    return [min(first, hidden - units) for first in range(0, hidden, units)]


def tile_rows(gates: Sequence[int], hidden: int, width: int, vectors: int) -> NDArray[np.intp]:
    """Return which rows of a recurrent weight the vectors of each tile hold.

    Parameters
    ----------
    gates : sequence of int
        The gates of a section.
    hidden : int
        Hidden units, which are the rows of a gate.
    width, vectors : int
        Hidden units of a vector, and vectors of a tile for each gate.

    Returns
    -------
    numpy.ndarray
        ``(tiles, len(gates) * vectors, width)``.
    """
    units = np.arange(vectors * width).reshape(1, vectors, width)
    of_gates = (np.asarray(gates) * hidden)[:, None, None] + units
    starts = np.asarray(tile_starts(hidden, vectors * width))
    return (starts[:, None, None, None] + of_gates).reshape(
        len(starts), len(gates) * vectors, width
    )


def pack_recurrent(weight: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Pack a dense recurrent weight.

    Parameters
    ----------
    weight : numpy.ndarray
        ``(directions, gates * hidden, hidden)``.
    rows : numpy.ndarray
        What `tile_rows` returns, ``(tiles, vectors, width)``.

    Returns
    -------
    numpy.ndarray
        ``(directions, tiles, hidden, vectors, width)``.
    """
    return np.ascontiguousarray(weight[:, rows].transpose(0, 1, 4, 2, 3))


@dataclass(frozen=True)
class WindowSparse:
    """A sparse recurrent weight in steps along its columns.

    A step holds at most one non-zero of each row of a tile. All of them lie in one window of
    columns, as wide as `WINDOWS` says for the lanes of a vector, so that a permutation of vectors
    of the state finds their factors. The window of a step begins at the first column that some row
    still has to take.

    Attributes
    ----------
    starts : numpy.ndarray
        int32, ``(directions, tiles + 1)``: the first step of each tile, and the end of the last.
    windows : numpy.ndarray
        int32, ``(steps,)``: the first column of each window.
    places : numpy.ndarray
        int32, ``(steps, width)``: byte n is the column of the value of vector n in its window.
    values : numpy.ndarray
        float32, ``(steps, vectors, width)``; 0 where a row has no value.
    """

    starts: NDArray[np.int32]
    windows: NDArray[np.int32]
    places: NDArray[np.int32]
    values: NDArray[np.float32]

    @staticmethod
    def from_dense(weight: NDArray[np.float32], rows: NDArray[np.intp]) -> WindowSparse:
        """Pack a weight ``(directions, gates * hidden, hidden)``.

        Parameters
        ----------
        weight : numpy.ndarray
            The weight.
        rows : numpy.ndarray
            What `tile_rows` returns, ``(tiles, vectors, width)``, with a width of `WINDOWS` and
            up to `MOST_VECTORS` vectors.
        """
        tiles, vectors, width = rows.shape
        windows: list[int] = []
        places, values = [], []
        starts = np.zeros((len(weight), tiles + 1), np.int32)
        shifts = (8 * np.arange(vectors))[:, None]
        for direction, tile in np.ndindex(len(weight), tiles):
            starts[direction, tile] = len(windows)
            part = weight[direction][rows[tile].reshape(-1)]
            for window, place, value in _steps(part, WINDOWS[width]):
                windows.append(window)
                places.append((place.reshape(vectors, width) << shifts).sum(0))
                values.append(value.reshape(vectors, width))
            starts[direction, tile + 1] = len(windows)
        if not windows:  # a tensor without elements cannot be saved
            windows, places = [0], [np.zeros(width)]
            values = [np.zeros((vectors, width), np.float32)]
        return WindowSparse(
            starts,
            np.asarray(windows, np.int32),
            np.asarray(places).astype(np.int32),
            np.asarray(values).astype(np.float32),
        )

    def to_dense(self, rows: NDArray[np.intp], hidden: int) -> NDArray[np.float32]:
        """Return the weight that was packed; `rows` as for `from_dense`."""
        tiles, vectors, width = rows.shape
        weight = np.zeros((len(self.starts), int(rows.max()) + 1, hidden + MOST_WINDOW), np.float32)
        for direction, tile in np.ndindex(len(self.starts), tiles):
            part = np.zeros((vectors * width, hidden + MOST_WINDOW), np.float32)
            for step in range(self.starts[direction, tile], self.starts[direction, tile + 1]):
                for vector in range(vectors):
                    columns = self.windows[step] + (self.places[step] >> (8 * vector) & 255)
                    of_vector = np.arange(vector * width, (vector + 1) * width)
                    part[of_vector, columns] += self.values[step, vector]
            weight[direction, rows[tile].reshape(-1)] = part
        return weight[:, :, :hidden]


def _steps(
    part: NDArray[np.float32], width: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
    """Yield each step of a tile's rows: the start of its window, the places in it, the values."""
    count, end = len(part), part.shape[1]
    each = np.arange(count)
    columns = np.full((count, int(np.count_nonzero(part, axis=1).max()) + 1), end, np.int64)
    for row in range(count):
        found = np.flatnonzero(part[row])
        columns[row, : len(found)] = found
    padded = np.pad(part, ((0, 0), (0, 1)))
    position = np.zeros(count, np.int64)
    while True:
        column = columns[each, position]
        window = int(column.min())
        if window == end:
            return
        taken = (column < window + width) & (column < end)
        yield window, np.where(taken, column - window, 0), np.where(taken, padded[each, column], 0)
        position += taken

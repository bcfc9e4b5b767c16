"""Sparse weights whose factors are found by permutations of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOWS = {16: 32, 8: 8}
"""Values of a row among which a permutation of vectors of so many lanes chooses: AVX-512 permutes
two vectors, AVX2 one."""

MOST_WINDOW = max(WINDOWS.values())
"""Values of the largest window."""

MOST_VECTORS = 4
"""Vectors whose choices lie in the four bytes of one word."""


@dataclass(frozen=True)
class WindowSparse:
    """A sparse weight in steps along its columns.

    A step holds at most one non-zero of each row of a tile. All of them lie in one window of
    columns, as wide as `WINDOWS` says for the lanes of a vector, so that a permutation of vectors
    of factors finds those of a vector of values. The window of a step begins at the first column
    that some row still has to take, or ends with the last column.

    Attributes
    ----------
    starts : numpy.ndarray
        int32, ``(matrices, tiles + 1)``: the first step of each tile, and the end of the last.
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
        """Pack some matrices of one shape.

        Parameters
        ----------
        weight : numpy.ndarray
            ``(matrices, rows, columns)``.
        rows : numpy.ndarray
            The rows in each tile, ``(tiles, vectors, width)``, with a width of `WINDOWS` and up to
            `MOST_VECTORS` vectors. Tiles may overlap.
        """
        tiles, vectors, width = rows.shape
        shifts = (8 * np.arange(vectors))[:, None]
        counts: list[int] = []
        windows: list[NDArray[Any]] = []
        places: list[NDArray[Any]] = []
        values: list[NDArray[Any]] = []
        for matrix in weight:
            for first in range(0, tiles, _TOGETHER):
                channels = rows[first : first + _TOGETHER].reshape(-1, vectors * width)
                for window, place, value in _steps(matrix[channels], WINDOWS[width]):
                    counts.append(len(window))
                    windows.append(window)
                    places.append((place.reshape(-1, vectors, width) << shifts).sum(1))
                    values.append(value.reshape(-1, vectors, width))
        ends = np.cumsum(counts).reshape(len(weight), tiles)
        starts = np.hstack([np.append(0, ends[:-1, -1])[:, None], ends])
        if not ends[-1, -1]:  # a tensor without elements cannot be saved
            windows, places = [np.zeros(1)], [np.zeros((1, width))]
            values = [np.zeros((1, vectors, width))]
        return WindowSparse(
            starts.astype(np.int32),
            np.concatenate(windows).astype(np.int32),
            np.concatenate(places).astype(np.int32),
            np.concatenate(values).astype(np.float32),
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


_TOGETHER = 16
"""Tiles that are packed side by side, so that NumPy's loops are long and its arrays small."""


def _steps(
    parts: NDArray[np.float32], width: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]]:
    """Return the windows, the places in them and the values of the steps of each of some tiles.

    Parameters
    ----------
    parts : numpy.ndarray
        ``(tiles, rows, columns)``.
    width : int
        Columns of a window.
    """
    end = parts.shape[2]
    # The columns of a row's values, one behind the other, and behind them the matrix's end.
    counts = np.count_nonzero(parts, axis=2)
    columns = np.full((*counts.shape, int(counts.max()) + 1), end)
    found = np.nonzero(parts)
    rank = np.arange(len(found[0])) - np.repeat(counts.cumsum() - counts.ravel(), counts.ravel())
    columns[found[0], found[1], rank] = found[2]
    padded = np.pad(parts, ((0, 0), (0, 0), (0, 1)))
    tile, row = np.ogrid[: len(parts), : parts.shape[1]]
    position = np.zeros(parts.shape[:2], np.intp)
    steps = []
    while True:
        column = columns[tile, row, position]
        # Loads of whole windows stay inside of a row of factors.
        window = np.minimum(column.min(1), max(end - width, 0))[:, None]
        is_left = column.min(1) < end
        if not is_left.any():
            break
        taken = (column < window + width) & (column < end)
        value = np.where(taken, padded[tile, row, column], 0)
        steps.append((is_left, window[:, 0], np.where(taken, column - window, 0), value))
        position += taken
    if not steps:
        nothing = np.zeros((0, parts.shape[1]), np.intp)
        return [(np.zeros(0, np.intp), nothing, nothing.astype(np.float32))] * len(parts)
    is_left, windows, places, values = (np.stack(arrays, 1) for arrays in zip(*steps, strict=True))
    return [(windows[t, left], places[t, left], values[t, left]) for t, left in enumerate(is_left)]

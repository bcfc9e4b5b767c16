"""Sparse recurrent weights whose values name their columns, for cores without wide permutations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_HIDDEN = 1 << 16
"""Hidden units whose numbers 16 bits hold."""


@dataclass(frozen=True)
class ColumnSparse:
    """A sparse recurrent weight in steps, each with the next non-zero of every row of a tile.

    Attributes
    ----------
    starts : numpy.ndarray
        int32, ``(directions, tiles + 1)``: the first step of each tile, and the end of the last.
    columns : numpy.ndarray
        uint16, ``(steps, vectors, width)``: the column of each value.
    values : numpy.ndarray
        float32, ``(steps, vectors, width)``; 0 where a row has no value any more.
    """

    starts: NDArray[np.int32]
    columns: NDArray[np.uint16]
    values: NDArray[np.float32]

    @staticmethod
    def from_dense(weight: NDArray[np.float32], rows: NDArray[np.intp]) -> ColumnSparse:
        """Pack a weight ``(directions, gates * hidden, hidden)``, with up to `MOST_HIDDEN` units.

        Parameters
        ----------
        weight : numpy.ndarray
            The weight.
        rows : numpy.ndarray
            What `tile_rows` returns, ``(tiles, vectors, width)``.
        """
        tiles, *shape = rows.shape
        starts = np.zeros((len(weight), tiles + 1), np.int32)
        columns, values, steps = [], [], 0
        for direction, tile in np.ndindex(len(weight), tiles):
            part = weight[direction][rows[tile].reshape(-1)]
            size = int(np.count_nonzero(part, axis=1).max())
            # A stable sort brings the non-zeros of a row to its front and keeps their order.
            order = np.argsort(part == 0, axis=1, kind="stable")[:, :size].T
            taken = np.take_along_axis(part.T, order, axis=0)
            columns.append(np.where(taken == 0, 0, order).reshape(size, *shape))
            values.append(taken.reshape(size, *shape))
            starts[direction, tile] = steps
            steps += size
            starts[direction, tile + 1] = steps
        if not steps:  # a tensor without elements cannot be saved
            columns, values = [np.zeros((1, *shape), np.int64)], [np.zeros((1, *shape))]
        return ColumnSparse(
            starts,
            np.concatenate(columns).astype(np.uint16),
            np.concatenate(values).astype(np.float32),
        )

    def to_dense(self, rows: NDArray[np.intp], hidden: int) -> NDArray[np.float32]:
        """Return the weight that was packed; `rows` as for `from_dense`."""
        weight = np.zeros((len(self.starts), int(rows.max()) + 1, hidden), np.float32)
        for direction, tile in np.ndindex(len(self.starts), len(rows)):
            part = np.zeros((rows[tile].size, hidden), np.float32)
            for step in range(self.starts[direction, tile], self.starts[direction, tile + 1]):
                each = np.arange(rows[tile].size)
                part[each, self.columns[step].reshape(-1)] += self.values[step].reshape(-1)
            weight[direction, rows[tile].reshape(-1)] = part
        return weight

"""Packed recurrent weights: the gates of a tile of hidden units lie together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.formats.rows import tile_starts


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

"""The packed form of a dense weight that meets a few rows: tiles of output channels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def tile_starts(channels: int, units: int) -> list[int]:
    """Return the first channel of each tile; the last tile overlaps the one before it."""
    return [min(first, channels - units) for first in range(0, channels, units)]


def tile_channels(channels: int, units: int) -> NDArray[np.intp]:
    """Return the output channels of each tile, ``(tiles, units)``.

    The last tile overlaps the one before it if the tiles do not divide the channels.

    Parameters
    ----------
    channels : int
        Output channels of the layer.
    units : int
        Output channels of a tile, at most `channels`.
    """
    return np.asarray(tile_starts(channels, units))[:, None] + np.arange(units)


def pack_rows(weight: NDArray[np.float32], units: int) -> NDArray[np.float32]:
    """Return the weight of a linear layer in tiles of output channels.

    Parameters
    ----------
    weight : ndarray
        ``[N, K]``, float32.
    units : int
        Output channels of a tile, at most N.

    Returns
    -------
    ndarray
        ``[tiles, K, units]``, float32.
    """
    tiles = weight[tile_channels(len(weight), units)]
    return np.ascontiguousarray(tiles.transpose(0, 2, 1))

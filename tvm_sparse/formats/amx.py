"""The packed form of a dense weight for the matrix unit AMX: tiles of bfloat16 or int8 values.

Two bfloat16 or four int8 values of neighbouring input channels are a word of 32 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE_CHANNELS = 16
"""Output channels of a tile."""
TILE_INPUTS = 32
"""Input channels of a tile of bfloat16 values."""
TILE_WORDS = 16
"""Words of an output channel in a tile."""
BLOCK_TILES = 2
"""Tiles of output channels that a kernel multiplies together."""


def tiles_of(channels: int, size: int) -> int:
    """Return the tiles of `size` channels that hold `channels` channels."""
    return -(-channels // size)


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return float32 values as the bits of the nearest bfloat16; ties go to the even one."""
    bits = np.ascontiguousarray(values, "float32").view("uint32")
    even = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + (np.uint32(0x7FFF) + even)) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype("uint16")


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the values of bfloat16 bits."""
    return (bits.astype("uint32") << np.uint32(16)).view("float32")


def pack_amx_linear(weight: NDArray[np.float32], inputs: int) -> NDArray[np.uint16]:
    """Return the weight of a linear layer in tiles of bfloat16 values, as `pack_tiles` does.

    Parameters
    ----------
    weight : ndarray
        ``[N, K]``, float32.
    inputs : int
        Input channels of a block, a multiple of `TILE_INPUTS`.

    Returns
    -------
    ndarray
        ``[tiles, TILE_CHANNELS, TILE_INPUTS]``, the bits of bfloat16 values.
    """
    return pack_tiles(to_bfloat16(weight), inputs)


def pack_tiles(weight: NDArray[Any], inputs: int) -> NDArray[Any]:
    """Return the weight of a linear layer in tiles, in the order of the kernel's reads.

    The tiles of a block of `inputs` input channels lie together. Within it, blocks of two tiles of
    output channels follow one another, the last of which may have one tile; within these, each
    tile of input channels has its tiles of output channels side by side.

    Parameters
    ----------
    weight : ndarray
        ``[N, K]``, uint16 or int8.
    inputs : int
        Input channels of a block, a multiple of those of a tile.

    Returns
    -------
    ndarray
        ``[tiles, TILE_CHANNELS, inputs of a tile]``; zeros fill up the last tiles.
    """
    n, k = weight.shape
    wide = 4 * TILE_WORDS // weight.itemsize
    rows, columns = tiles_of(n, TILE_CHANNELS), tiles_of(k, wide)
    padded = np.zeros((rows * TILE_CHANNELS, columns * wide), weight.dtype)
    padded[:n, :k] = weight
    tiles = padded.reshape(rows, TILE_CHANNELS, columns, wide).transpose(0, 2, 1, 3)
    ordered = np.empty((rows * columns, TILE_CHANNELS, wide), weight.dtype)
    end = 0
    for first in range(0, columns, inputs // wide):
        for row in range(0, rows, BLOCK_TILES):
            block = tiles[row : row + BLOCK_TILES, first : first + inputs // wide]
            start, end = end, end + block.shape[0] * block.shape[1]
            ordered[start:end] = block.swapaxes(0, 1).reshape(-1, TILE_CHANNELS, wide)
    return ordered

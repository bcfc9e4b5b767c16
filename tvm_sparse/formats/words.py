"""Weights of integers as words of 32 bits, for dot products of vectors.

A word holds four int8 or two int16 values of neighbouring input channels of an output channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack_words(values: NDArray[Any], channels: int) -> NDArray[np.int32]:
    """Return the weight of a linear layer in words, in the order of the kernel's reads.

    Parameters
    ----------
    values : ndarray
        ``[N, K]``, int8 or int16.
    channels : int
        Output channels of a block.

    Returns
    -------
    ndarray
        ``[blocks, words, channels]``, int32; zeros fill up the last word and the last block.
    """
    n, k = values.shape
    per_word = 4 // values.itemsize
    blocks, words = -(-n // channels), -(-k // per_word)
    padded = np.zeros((blocks * channels, words * per_word), values.dtype)
    padded[:n, :k] = values
    packed = padded.view("<i4").reshape(blocks, channels, words)
    return np.ascontiguousarray(packed.transpose(0, 2, 1)).astype("int32")

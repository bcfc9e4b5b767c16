"""Weights of integers as words of 32 bits, for dot products of vectors.

A word holds four int8 or two int16 values of neighbouring input channels of an output channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class WordForm:
    """What words of integers look like.

    Attributes
    ----------
    per_word : int
        4 integers of 8 bits, or 2 of 16, which are distances from the zero point.
    is_signed : bool
        Whether integers of 8 bits are signed.
    """

    per_word: int = 4
    is_signed: bool = False

    def words(self, channels: int) -> int:
        """Return the words of some channels."""
        return -(-channels // self.per_word)


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
    words = as_words(values)
    whole = np.pad(words, ((0, -len(words) % channels), (0, 0)))
    packed = whole.reshape(-1, channels, words.shape[1])
    return np.ascontiguousarray(packed.transpose(0, 2, 1))


def as_words(values: NDArray[Any]) -> NDArray[np.int32]:
    """Return the words of a weight ``[N, K]``, int8 or int16; zeros fill up the last word."""
    per_word = 4 // values.itemsize
    whole = np.pad(values, ((0, 0), (0, -values.shape[1] % per_word)))
    return np.ascontiguousarray(whole).view("<i4").astype("int32")

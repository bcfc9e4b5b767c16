"""The packed form of a dense weight: blocks of output channels, in the order of the kernels' reads.

A kernel multiplies each input by the weights of all channels of a block, which therefore lie side
by side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pack_linear(weight: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Return the weight of a linear layer in blocks of output channels.

    Parameters
    ----------
    weight : ndarray
        ``[N, K]``, float32.
    block : int
        Output channels of a block.

    Returns
    -------
    ndarray
        ``[blocks, K, block]``, float32; zeros fill up the last block.
    """
    n, k = weight.shape
    padded = np.pad(weight, ((0, -n % block), (0, 0)))
    return np.ascontiguousarray(padded.reshape(-1, block, k).transpose(0, 2, 1))


def pack_conv2d(weight: NDArray[np.float32], groups: int, block: int) -> NDArray[np.float32]:
    """Return the weight of a convolution in blocks of output channels.

    Parameters
    ----------
    weight : ndarray
        ``[N, C / groups, kh, kw]``, float32.
    groups : int
        Groups of the convolution; no block has channels of two groups.
    block : int
        Output channels of a block.

    Returns
    -------
    ndarray
        ``[blocks, C / groups, kh, kw, block]``, float32; zeros fill up each group's last block.
    """
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    padding = [(0, 0), (0, -grouped.shape[1] % block), (0, 0), (0, 0), (0, 0)]
    blocks = np.pad(grouped, padding).reshape(-1, block, *weight.shape[1:])
    return np.ascontiguousarray(np.moveaxis(blocks, 1, -1))

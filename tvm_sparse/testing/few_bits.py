"""Random weights of few bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tvm_sparse.formats.blocks import BlockCodes


def random_codes(
    n: int,
    k: int,
    bits: int,
    block: int,
    *,
    is_symmetric: bool = True,
    density: float = 1.0,
    seed: int = 0,
) -> BlockCodes:
    """Return a random weight ``(n, k)``.

    Parameters
    ----------
    n, k, bits, block : int
        As in `BlockCodes`.
    is_symmetric : bool
        Whether the zeros are those of a symmetric weight, or random.
    density : float
        The share of random values; the others are zero.
    seed : int
        The same seed gives the same weight.
    """
    rng = np.random.default_rng(seed)
    blocks = -(-k // block)
    codes = rng.integers(0, 1 << bits, (n, k)).astype(np.uint8)
    zeros = np.full((n, blocks), 1 << (bits - 1), np.uint8)
    if not is_symmetric:
        zeros = rng.integers(0, 1 << bits, (n, blocks)).astype(np.uint8)
    is_zero = rng.random((n, k)) >= density
    codes = np.where(is_zero, np.repeat(zeros, block, axis=1)[:, :k], codes)
    scales = rng.uniform(0.005, 0.01, (n, blocks)).astype(np.float32)
    return BlockCodes(codes, scales, zeros, bits, block)


def two_of_four(weight: BlockCodes) -> BlockCodes:
    """Return a weight with random two of every four neighbours of a row set to zero."""
    n, k = weight.shape
    more = -k % 4
    order = np.random.default_rng(0).random((n, (k + more) // 4, 4)).argsort(2) < 2
    is_zero = order.reshape(n, k + more)[:, :k]
    zeros = np.repeat(weight.zeros, weight.block, axis=1)[:, :k]
    return replace(weight, codes=np.where(is_zero, zeros, weight.codes))

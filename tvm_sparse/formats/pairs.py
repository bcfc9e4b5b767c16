"""Weights of four bits of which at most two of four neighbouring input channels are not zero.

Of every four columns, a packed weight has two codes and their places, 3 bits a weight. A lane is a
word of four codes, those of eight columns. Of sixteen columns and a group of sixteen output
channels, 64 bytes hold the codes, the first eight columns in the low halves; then 32 bytes hold the
places of the codes of the lower and the upper eight channels, two bits each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.formats.blocks import BlockCodes
from tvm_sparse.formats.groups import GROUP, by_channel, in_lanes

COLUMNS = 16
"""Input channels that lie together; blocks are a multiple of it."""

CODE_BYTES, PLACE_BYTES = 64, 32
"""Bytes of a group and `COLUMNS` columns."""

_MIDDLE = 8


def is_pairs(weight: BlockCodes) -> bool:
    """Return whether a weight can be packed in pairs."""
    if weight.bits != 4 or not weight.is_symmetric or weight.block % COLUMNS:
        return False
    n, k = weight.shape
    nonzero = np.zeros((n, -(-k // 4) * 4), np.uint8)
    nonzero[:, :k] = weight.codes != _MIDDLE
    first, second, third, fourth = (nonzero[:, i::4] for i in range(4))
    return bool((first + second + third + fourth <= 2).all())


@dataclass(frozen=True)
class PairBlocks:
    """A packed weight.

    Attributes
    ----------
    codes : numpy.ndarray
        uint8, ``(groups, K / COLUMNS, CODE_BYTES + PLACE_BYTES)``.
    scales : numpy.ndarray
        float16 or float32, ``(groups, blocks, GROUP)``.
    block : int
        As that of the `BlockCodes`.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16 | np.float32]
    block: int

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.codes.nbytes + self.scales.nbytes

    @staticmethod
    def pack(weight: BlockCodes, scale_dtype: str) -> PairBlocks:
        """Return a weight for which `is_pairs` holds, padded by zeros to whole groups."""
        whole = weight.padded(GROUP, COLUMNS)
        n, k = whole.shape
        quads = whole.codes.reshape(n, k // 4, 4)
        places = np.sort(np.argsort(quads == _MIDDLE, axis=2, kind="stable")[..., :2], axis=2)
        codes = np.take_along_axis(quads, places, 2)
        words = (n // GROUP, GROUP, k // COLUMNS, 2, 4)
        low, high = np.moveaxis(codes.reshape(words), 3, 0)
        values = (low | high << 4).transpose(0, 2, 1, 3).reshape(n // GROUP, -1, CODE_BYTES)
        # The axes are: eight channels of sixteen, eight columns of sixteen.
        halves = places.astype(np.uint8).reshape(n // GROUP, 2, 8, k // COLUMNS, 2, 4)
        at = np.zeros_like(halves[:, 0, :, :, 0])
        for half, octet in np.ndindex(2, 2):
            at |= halves[:, half, :, :, octet] << np.uint8(4 * half + 2 * octet)
        at = at.transpose(0, 2, 1, 3).reshape(n // GROUP, -1, PLACE_BYTES)
        return PairBlocks(
            np.ascontiguousarray(np.concatenate([values, at], axis=2)),
            in_lanes(whole.scales).astype(scale_dtype),
            weight.block,
        )

    def unpack(self, n: int, k: int) -> BlockCodes:
        """Return the weight of `n` output and `k` input channels that was packed."""
        groups, sixteens, _ = self.codes.shape
        words = self.codes[..., :CODE_BYTES].reshape(groups, sixteens, GROUP, 4)
        codes = np.stack([words & 15, words >> 4], axis=3)
        at = self.codes[..., CODE_BYTES:].reshape(groups, sixteens, 8, 4)
        shifts = np.arange(0, 8, 2, dtype=np.uint8).reshape(2, 2, 1)
        places = at[:, :, None, :, None, :] >> shifts[:, None] & 3
        quads = np.full((groups, sixteens, GROUP, 4, 4), _MIDDLE, np.uint8)
        of_quads = (groups, sixteens, GROUP, 4, 2)
        np.put_along_axis(quads, places.reshape(of_quads).astype(int), codes.reshape(of_quads), 4)
        whole = quads.transpose(0, 2, 1, 3, 4).reshape(groups * GROUP, -1)
        scales = by_channel(self.scales)[:n].astype(np.float32)
        zeros = np.full(scales.shape, _MIDDLE, np.uint8)
        return BlockCodes(whole[:n, :k], scales, zeros, 4, self.block)

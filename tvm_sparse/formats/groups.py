"""Dense weights of four or eight bits, packed in groups of output channels.

The channels of a group lie in the lanes of vectors. A lane is a word of four bytes: of four bits,
they are the codes of eight input channels, the first four in the low halves; of eight bits, those
of four. Every vector length cuts such groups into whole vectors, so that all processors share one
packed form, whatever the rows that it is multiplied by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.formats.blocks import BlockCodes

_T = TypeVar("_T", bound=np.generic)

GROUP = 16
"""Output channels of a group."""

COLUMNS = 8
"""Input channels that lie together; blocks are a multiple of it."""


@dataclass(frozen=True)
class GroupedBlocks:
    """A packed weight.

    Attributes
    ----------
    codes : numpy.ndarray
        uint8, ``(groups, words, 4 * GROUP)``.
    scales : numpy.ndarray
        float16 or float32, ``(groups, blocks, GROUP)``.
    zeros : numpy.ndarray or None
        uint8, ``(groups, blocks, GROUP)``; None for a symmetric weight.
    bits, block : int
        As those of the `BlockCodes`.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16 | np.float32]
    zeros: NDArray[np.uint8] | None
    bits: int
    block: int

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        zeros = 0 if self.zeros is None else self.zeros.nbytes
        return self.codes.nbytes + self.scales.nbytes + zeros

    @staticmethod
    def pack(weight: BlockCodes, scale_dtype: str) -> GroupedBlocks:
        """Return a weight in groups, padded by zeros to whole ones.

        Parameters
        ----------
        weight : BlockCodes
            Its blocks are a multiple of `COLUMNS`.
        scale_dtype : str
            The type of the scales; `scales_type` tells which one holds them.
        """
        whole = weight.padded(GROUP, COLUMNS)
        n, k = whole.shape
        codes: NDArray[Any]
        if weight.bits == 4:
            halves = whole.codes.reshape(n // GROUP, GROUP, k // 8, 2, 4)
            codes = halves[:, :, :, 0] | halves[:, :, :, 1] << 4
        else:
            codes = whole.codes.reshape(n // GROUP, GROUP, k // 4, 4)
        words = np.ascontiguousarray(codes.transpose(0, 2, 1, 3))
        return GroupedBlocks(
            words.reshape(len(words), -1, 4 * GROUP),
            in_lanes(whole.scales).astype(scale_dtype),
            None if weight.is_symmetric else in_lanes(whole.zeros),
            weight.bits,
            weight.block,
        )

    def unpack(self, n: int, k: int) -> BlockCodes:
        """Return the weight of `n` output and `k` input channels that was packed."""
        groups, words, _ = self.codes.shape
        codes: NDArray[Any] = self.codes.reshape(groups, words, GROUP, 4).transpose(0, 2, 1, 3)
        if self.bits == 4:
            codes = np.stack([codes & 15, codes >> 4], axis=3)
        scales = by_channel(self.scales)[:n].astype(np.float32)
        zeros: NDArray[np.uint8] = np.full(scales.shape, 1 << (self.bits - 1), np.uint8)
        if self.zeros is not None:
            zeros = by_channel(self.zeros)[:n]
        codes = codes.reshape(groups * GROUP, -1)[:n, :k]
        return BlockCodes(codes, scales, zeros, self.bits, self.block)


def scales_type(scales: NDArray[np.float32], *, may_round: bool) -> str:
    """Return the smallest type that holds scales.

    Parameters
    ----------
    scales : numpy.ndarray
        float32.
    may_round : bool
        Whether they may lose digits, one part in 2,048 at most.
    """
    with np.errstate(over="ignore"):
        half = scales.astype(np.float16).astype(np.float32)
    error = np.abs(half - scales)
    most = np.abs(scales) / 2048 if may_round else np.zeros_like(scales)
    return "float16" if bool((error <= most).all()) else "float32"


def in_lanes(of_blocks: NDArray[_T]) -> NDArray[_T]:
    """Return ``(N, blocks)`` as ``(groups, blocks, GROUP)``."""
    n, blocks = of_blocks.shape
    return np.ascontiguousarray(of_blocks.reshape(n // GROUP, GROUP, blocks).transpose(0, 2, 1))


def by_channel(in_lanes: NDArray[_T]) -> NDArray[_T]:
    """Return the inverse of `in_lanes`."""
    groups, blocks, _ = in_lanes.shape
    return in_lanes.transpose(0, 2, 1).reshape(groups * GROUP, blocks)

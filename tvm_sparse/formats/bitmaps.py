"""Weights of four bits, unstructured sparse: a bit for each weight, and the codes of the non-zeros.

Of eight columns and a group of sixteen output channels, two masks of 64 bits tell which of the
first and of the last four columns are not zero, in the order of a dense weight: the columns of a
channel lie side by side. The codes of the first mask lie in the low halves of as many bytes as the
fuller mask has non-zeros, those of the second one in the high halves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.formats.blocks import BlockCodes
from tvm_sparse.formats.groups import COLUMNS, GROUP, by_channel, in_lanes

MASK_BYTES = 16
"""Bytes of the two masks of eight columns and a group."""

READ_BYTES = 64
"""Bytes that a kernel reads from the first code of eight columns on."""

MOST_BYTES = 2**31 - 1
"""Bytes of codes at which the first one of a group can be."""

_MIDDLE = 8


def can_have_bitmaps(weight: BlockCodes) -> bool:
    """Return whether a weight can be packed with bitmaps."""
    return weight.bits == 4 and weight.is_symmetric and weight.block % COLUMNS == 0


def code_bytes(weight: BlockCodes) -> int:
    """Return the bytes of the codes of a packed weight."""
    return sum(int(counts.max(axis=-1).sum()) for _, counts in _counted(weight))


def _counted(weight: BlockCodes) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield the codes ``(octets, 2, 64)`` of each group, and the non-zeros of each mask."""
    whole = weight.padded(GROUP, COLUMNS)
    n, k = whole.shape
    for group in whole.codes.reshape(n // GROUP, GROUP, k // COLUMNS, 2, 4):
        words = group.transpose(1, 2, 0, 3).reshape(k // COLUMNS, 2, 4 * GROUP)
        yield words, np.count_nonzero(words != _MIDDLE, axis=2)


@dataclass(frozen=True)
class BitmapBlocks:
    """A packed weight.

    Attributes
    ----------
    masks : numpy.ndarray
        uint64, ``(groups, K / COLUMNS, 2)``.
    codes : numpy.ndarray
        uint8, those of all groups one after the other, and `READ_BYTES` more.
    starts : numpy.ndarray
        int32, ``(groups,)``: the first byte of each group.
    scales : numpy.ndarray
        float16 or float32, ``(groups, blocks, GROUP)``.
    block : int
        As that of the `BlockCodes`.
    """

    masks: NDArray[np.uint64]
    codes: NDArray[np.uint8]
    starts: NDArray[np.int32]
    scales: NDArray[np.float16 | np.float32]
    block: int

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.masks, self.codes, self.starts, self.scales)
        return sum(array.nbytes for array in arrays)

    @staticmethod
    def pack(weight: BlockCodes, scale_dtype: str) -> BitmapBlocks:
        """Return a weight for which `can_have_bitmaps` holds, padded by zeros to whole groups."""
        masks, codes, starts, end = [], [], [], 0
        for words, counts in _counted(weight):
            lengths = counts.max(axis=1)
            stream = np.zeros(int(lengths.sum()), np.uint8)
            first = np.cumsum(lengths) - lengths
            held = words != _MIDDLE
            places = first[:, None, None] + np.cumsum(held, axis=2) - 1
            for half in range(2):
                # A place holds one code of each half.
                at, of = places[:, half][held[:, half]], words[:, half][held[:, half]]
                stream[at] |= of << np.uint8(4 * half)
            masks.append(np.packbits(held, axis=2, bitorder="little").view("<u8")[..., 0])
            codes.append(stream)
            starts.append(end)
            end += len(stream)
        return BitmapBlocks(
            np.stack(masks),
            np.concatenate([*codes, np.zeros(READ_BYTES, np.uint8)]),
            np.array(starts, np.int32),
            in_lanes(weight.padded(GROUP, COLUMNS).scales).astype(scale_dtype),
            weight.block,
        )

    def unpack(self, n: int, k: int) -> BlockCodes:
        """Return the weight of `n` output and `k` input channels that was packed."""
        groups, octets, _ = self.masks.shape
        bits = np.unpackbits(self.masks[..., None].view(np.uint8), axis=3, bitorder="little")
        held = bits.astype(bool)
        lengths = np.count_nonzero(held, axis=3).max(axis=2)
        first = (np.cumsum(lengths) - lengths.ravel()).reshape(groups, octets)
        places = first[..., None, None] + np.cumsum(held, axis=3) - 1
        words = np.full(held.shape, _MIDDLE, np.uint8)
        for half in range(2):
            found = self.codes[places[:, :, half][held[:, :, half]]]
            words[:, :, half][held[:, :, half]] = found >> np.uint8(4 * half) & 15
        quads = words.reshape(groups, octets, 2, GROUP, 4).transpose(0, 3, 1, 2, 4)
        scales = by_channel(self.scales)[:n].astype(np.float32)
        zeros = np.full(scales.shape, _MIDDLE, np.uint8)
        codes = np.ascontiguousarray(quads.reshape(groups * GROUP, -1)[:n, :k])
        return BlockCodes(codes, scales, zeros, 4, self.block)

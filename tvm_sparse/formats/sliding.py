"""Weights of four bits, unstructured sparse: a byte for each non-zero, in windows of columns.

A step takes up to two non-zeros of each of sixteen output channels. All of them lie in one window
of sixteen columns, so that the low half of a byte is the place in the window, and the high half the
code. A window begins at the first column that some channel still has to take, or so that it ends
with its block: the non-zeros of a step share the scales of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.formats.blocks import BlockCodes
from tvm_sparse.formats.groups import GROUP, by_channel, in_lanes

WINDOW = 16
"""Columns of a window."""

SLOTS = 2
"""Non-zeros of an output channel that a step takes."""

STEP_BYTES = SLOTS * GROUP
"""Bytes of the non-zeros of a step."""

LARGEST_BLOCK = 256
"""Columns of a block in which a byte names the first column of a window."""

_MIDDLE = 8


def can_slide(weight: BlockCodes) -> bool:
    """Return whether a weight can be packed in windows."""
    has_blocks = WINDOW <= weight.block <= LARGEST_BLOCK and weight.block % 8 == 0
    return weight.bits == 4 and weight.is_symmetric and has_blocks


@dataclass(frozen=True)
class SlidingBlocks:
    """A packed weight.

    Attributes
    ----------
    codes : numpy.ndarray
        uint8, ``(steps, STEP_BYTES)``: two non-zeros of each channel of a group. An unused byte has
        the code of zero.
    windows : numpy.ndarray
        uint8, ``(steps,)``: the first column of each window in its block.
    starts : numpy.ndarray
        int32, ``(groups * blocks + 1,)``: the first step of each block of each group, and the end.
    scales : numpy.ndarray
        float16 or float32, ``(groups, blocks, GROUP)``.
    block : int
        As that of the `BlockCodes`.
    """

    codes: NDArray[np.uint8]
    windows: NDArray[np.uint8]
    starts: NDArray[np.int32]
    scales: NDArray[np.float16 | np.float32]
    block: int

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.codes, self.windows, self.starts, self.scales)
        return sum(array.nbytes for array in arrays)

    @staticmethod
    def pack(weight: BlockCodes, scale_dtype: str) -> SlidingBlocks:
        """Return a weight for which `can_slide` holds, padded by zeros to whole groups."""
        whole = weight.padded(GROUP, 1)
        n, k = whole.shape
        groups, blocks = n // GROUP, k // whole.block
        counts, windows, columns = _steps(whole.codes != _MIDDLE, whole.block)
        starts = np.append(0, np.cumsum(counts)).astype(np.int32)
        is_used = columns >= 0
        group = np.repeat(np.arange(groups), counts.reshape(groups, -1).sum(1))[:, None, None]
        channel = group * GROUP + np.arange(GROUP)[:, None]
        codes = np.where(is_used, whole.codes[channel, columns], _MIDDLE)
        places = np.where(is_used, columns - windows[:, None, None], 0)
        if not len(windows):  # a tensor without elements cannot be saved
            windows = np.zeros(1, np.intp)
            places, codes = (np.full((1, GROUP, SLOTS), fill) for fill in (0, _MIDDLE))
        assert len(starts) == groups * blocks + 1
        return SlidingBlocks(
            (places | codes << 4).astype(np.uint8).reshape(-1, STEP_BYTES),
            (windows % whole.block).astype(np.uint8),
            starts,
            in_lanes(whole.scales).astype(scale_dtype),
            weight.block,
        )

    def unpack(self, n: int, k: int) -> BlockCodes:
        """Return the weight of `n` output and `k` input channels that was packed."""
        groups, blocks, _ = self.scales.shape
        codes = np.full((groups * GROUP, blocks * self.block), _MIDDLE, np.uint8)
        owner = np.repeat(np.arange(groups * blocks), np.diff(self.starts))
        for step, of in enumerate(owner):
            group, block = divmod(int(of), blocks)
            slots = self.codes[step].reshape(GROUP, SLOTS)
            first = block * self.block + int(self.windows[step])
            for channel, slot in zip(*np.nonzero(slots >> 4 != _MIDDLE), strict=True):
                column = first + int(slots[channel, slot] & 15)
                codes[group * GROUP + channel, column] = slots[channel, slot] >> 4
        scales = by_channel(self.scales)[:n].astype(np.float32)
        zeros = np.full(scales.shape, _MIDDLE, np.uint8)
        return BlockCodes(codes[:n, :k], scales, zeros, 4, self.block)


def _steps(
    nonzero: NDArray[np.bool_], block: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return the steps of all groups, one behind the other.

    Parameters
    ----------
    nonzero : numpy.ndarray
        ``(N, K)``; N is a multiple of `GROUP`, and K of `block`.
    block : int
        Columns of a block.

    Returns
    -------
    tuple of numpy.ndarray
        The number of steps of each block of each group; the first column of the window of each
        step; its columns, ``(steps, GROUP, SLOTS)``, where -1 is an unused slot.
    """
    n, k = nonzero.shape
    groups, end = n // GROUP, k
    counts = nonzero.sum(1)
    columns = np.full((n, int(counts.max(initial=0)) + SLOTS), end)
    row, column = np.nonzero(nonzero)
    columns[row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)] = column
    of_channels = columns.reshape(groups, GROUP, -1)
    group, channel = np.ogrid[:groups, :GROUP]
    taken = np.zeros((groups, GROUP), np.intp)
    windows, found = [], []
    while True:
        nexts = np.stack([of_channels[group, channel, taken + slot] for slot in range(SLOTS)], 2)
        first = nexts[:, :, 0].min(1)
        is_left = first < end
        if not is_left.any():
            break
        # Loads of whole windows stay inside of a row, and windows of a block inside of the block.
        last = (first // block + 1) * block
        window = np.minimum(first, last - WINDOW)
        fits = (nexts < np.minimum(window + WINDOW, last)[:, None, None]) & is_left[:, None, None]
        windows.append(np.where(is_left, window, -1))
        found.append(np.where(fits, nexts, -1))
        taken += fits.sum(2)
    if not windows:
        nothing = np.zeros(groups * (k // block), np.intp)
        return nothing, np.zeros(0, np.intp), np.zeros((0, GROUP, SLOTS), np.intp)
    of_group, of_channel = np.stack(windows, 1), np.stack(found, 1)
    used = of_group >= 0
    owner = np.repeat(np.arange(groups), used.sum(1)) * (k // block) + of_group[used] // block
    number = np.bincount(owner, minlength=groups * (k // block))
    return number, of_group[used], of_channel[used]

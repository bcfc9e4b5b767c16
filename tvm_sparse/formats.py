"""The packed form of a pruned weight matrix, in the order in which the kernels read it.

A weight ``[N, K]`` is cut into chunks of output channels (so that threads can share a row) and
blocks of K (the part of the activations that stays in the L1 cache). In each (chunk, K block)
the channels are sorted by their number of non-zeros inside small windows and taken in groups of
R, which the kernel walks side by side, one non-zero each per step. Sorting makes the members of
a group nearly equal, so that little padding is needed; the windows keep a group's outputs close
together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OFFSET_UNIT = 2
"""Floats per unit of an offset: x86 scales an index by at most 8 bytes for free."""


@dataclass(frozen=True)
class SparseTiling:
    """How a sparse weight is cut.

    Attributes
    ----------
    group : int
        Output channels that are computed side by side.
    k_block : int
        Input channels per K block.
    chunks : int
        Equal chunks of output channels; must divide N.
    window : int
        Output channels that are sorted together.
    """

    group: int
    k_block: int
    chunks: int = 1
    window: int = 384

    def __post_init__(self) -> None:
        if min(self.group, self.k_block, self.chunks, self.window) < 1:
            raise ValueError(f"group, k_block, chunks and window must be positive: {self}")


@dataclass(frozen=True)
class SparseLayout:
    """Sizes of a packed weight, which weights of one shape and tiling have in common.

    Attributes
    ----------
    n, k : int
        Output and input channels of the weight.
    lanes : int
        Lanes of the activations that the offsets are scaled for.
    tiling : SparseTiling
        How the weight is cut.
    """

    n: int
    k: int
    lanes: int
    tiling: SparseTiling

    def __post_init__(self) -> None:
        if self.n % self.tiling.chunks:
            raise ValueError(f"{self.n} channels do not make {self.tiling.chunks} equal chunks")
        if self.lanes % OFFSET_UNIT:
            raise ValueError(f"lanes must be a multiple of {OFFSET_UNIT}, not {self.lanes}")
        if min(self.tiling.k_block, self.k) * self.lanes > OFFSET_UNIT << 16:
            raise ValueError(
                f"a K block of {self.tiling.k_block} channels x {self.lanes} lanes is out of reach "
                "of 16-bit offsets"
            )

    @property
    def k_blocks(self) -> int:
        """Number of K blocks."""
        return -(-self.k // self.tiling.k_block)

    @property
    def chunk_channels(self) -> int:
        """Output channels of a chunk."""
        return self.n // self.tiling.chunks

    @property
    def chunk_groups(self) -> int:
        """Groups of a chunk; the last one is filled up by repeating its last channel."""
        return -(-self.chunk_channels // self.tiling.group)

    @property
    def groups(self) -> int:
        """Groups over all chunks and K blocks."""
        return self.tiling.chunks * self.k_blocks * self.chunk_groups


@dataclass(frozen=True, eq=False)
class PackedSparse:
    """A sparse weight, packed.

    Groups are stored in the order chunk, K block, group of the chunk. A group takes as many steps
    as its fullest channel has non-zeros; a step holds one non-zero of each of its R channels.

    Attributes
    ----------
    layout : SparseLayout
        Sizes and tiling.
    indptr : ndarray of int32, shape (groups + 1,)
        First step of every group.
    channels : ndarray of int32, shape (groups * R,)
        Output channels of every group.
    offsets : ndarray of uint16, shape (steps * R,)
        Position of the non-zero's input channel in the activations, relative to the start of the
        K block, in units of `OFFSET_UNIT` floats. Zero where a channel has run out of non-zeros.
    values : ndarray of float32, shape (steps * R,)
        Weights. Zero where a channel has run out of non-zeros.
    """

    layout: SparseLayout
    indptr: NDArray[np.int32]
    channels: NDArray[np.int32]
    offsets: NDArray[np.uint16]
    values: NDArray[np.float32]

    @staticmethod
    def from_dense(weight: NDArray[np.float32], lanes: int, tiling: SparseTiling) -> PackedSparse:
        """Pack the non-zeros (NaN included) of a weight of shape ``[N, K]``."""
        n, k = weight.shape
        layout = SparseLayout(n, k, lanes, tiling)
        blocks = [
            _pack_block(
                weight[first : first + layout.chunk_channels, k0 : k0 + tiling.k_block],
                first,
                lanes,
                tiling,
            )
            for first in range(0, n, layout.chunk_channels)
            for k0 in range(0, k, tiling.k_block)
        ]
        steps, channels, offsets, values = (np.concatenate(p) for p in zip(*blocks, strict=True))
        # One unused step for a weight of zeros, because TVM has no constants of size zero.
        unused = 0 if len(values) else tiling.group
        return PackedSparse(
            layout=layout,
            indptr=np.concatenate([[0], np.cumsum(steps)]).astype("int32"),
            channels=channels.astype("int32"),
            offsets=np.pad(offsets, (0, unused)),
            values=np.pad(values, (0, unused)),
        )

    def to_dense(self) -> NDArray[np.float32]:
        """Return the weight of shape ``[N, K]``; the inverse of `from_dense`."""
        layout = self.layout
        group = layout.tiling.group
        counts = np.diff(self.indptr)
        group_of_step = np.repeat(np.arange(layout.groups), counts)
        used = len(group_of_step) * group
        k_block = (group_of_step // layout.chunk_groups) % layout.k_blocks
        channel = self.channels.reshape(-1, group)[group_of_step].ravel()
        column = (
            self.offsets[:used].astype(np.int64) * OFFSET_UNIT // layout.lanes
            + np.repeat(k_block, group) * layout.tiling.k_block
        )
        value = self.values[:used]
        dense = np.zeros((layout.n, layout.k), "float32")
        kept = value != 0
        dense[channel[kept], column[kept]] = value[kept]
        return dense


def _pack_block(
    block: NDArray[np.float32], first_channel: int, lanes: int, tiling: SparseTiling
) -> tuple[NDArray[np.integer], ...]:
    """Pack one (chunk, K block): its steps per group, channels, offsets and values."""
    group = tiling.group
    nonzeros = np.count_nonzero(block, axis=1)
    window = np.arange(len(block)) // tiling.window
    order = np.lexsort((-nonzeros, window))
    # Members of a group are stored together, so a repeated channel is stored twice, alike.
    order = np.pad(order, (0, -len(order) % group), mode="edge")
    counts = nonzeros[order].reshape(-1, group).max(axis=1)
    first_step = np.concatenate([[0], np.cumsum(counts)])
    place, column = np.nonzero(block[order])
    row_start = np.concatenate([[0], np.cumsum(nonzeros[order])])
    step = first_step[place // group] + np.arange(len(place)) - row_start[place]
    slot = step * group + place % group
    offsets = np.zeros(first_step[-1] * group, "uint16")
    values = np.zeros(first_step[-1] * group, "float32")
    offsets[slot] = column * lanes // OFFSET_UNIT
    values[slot] = block[order[place], column]
    return counts, order + first_channel, offsets, values

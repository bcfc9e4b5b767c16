"""The packed form of a pruned weight, in the order in which the kernels read it.

A weight ``[N, K]`` holds ``K`` taps for each output channel. It is cut into chunks of output
channels, so that threads can share a row, and into blocks of K, whose inputs stay in the L1 cache.
In each (chunk, K block) the channels are sorted, inside small windows, by their number of
non-zeros. They are then taken in groups of R, which the kernel walks side by side, one non-zero of
each channel in a step. Sorting makes the members of a group nearly equal, so that little padding is
needed; the windows keep a group's outputs close together.

The weight of a convolution is such a matrix too, with ``K = C * kh * kw``. Only the place of a
tap's input differs: it lies in a panel of activations, or in the rows that `Window` describes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.sizes.conv2d import Conv2d, Window

OFFSET_UNIT = 2
"""Floats per unit of an offset: x86 scales an index by at most 8 bytes for free."""


def slot_bytes(dtype: DType) -> int:
    """Return the bytes of a non-zero: its value and its offset, uint16."""
    return dtype.bytes + np.dtype("uint16").itemsize


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
        Number of equal chunks of output channels; it must divide N.
    window : int
        Output channels that are sorted together.
    rows : int
        Rows of activations that are computed side by side. With panels of few lanes, one row alone
        does not pay for loading a weight.
    """

    group: int
    k_block: int
    chunks: int = 1
    window: int = 384
    rows: int = 1

    def __post_init__(self) -> None:
        if min(self.group, self.k_block, self.chunks, self.window, self.rows) < 1:
            raise ValueError(f"group, k_block, chunks, window and rows must be positive: {self}")


@dataclass(frozen=True)
class SparseConvTiling(SparseTiling):
    """How the sparse weight and the output rows of a convolution are cut.

    Attributes
    ----------
    width : int
        Values per vector.
    row_block : int
        Output rows of a job, which gathers their input rows once; a multiple of `rows`.
    shifted : bool
        Whether the gathered rows are stored once per horizontal kernel position, see `Window`.
    vectors : int
        The most vectors of an output row that are computed together. A wide row is walked piece by
        piece, so that a piece's inputs in all channels of a K block stay in the L1 cache.
    """

    width: int = 8
    row_block: int = 1
    shifted: bool = False
    vectors: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vectors < 1:
            raise ValueError(f"vectors must be positive: {self}")
        if self.row_block < 1 or self.row_block % self.rows:
            raise ValueError(f"row_block must be a multiple of rows: {self}")


@dataclass(frozen=True, eq=False)
class SparseLayout:
    """The sizes that packed weights of one shape and tiling have in common.

    Attributes
    ----------
    n, k : int
        Output channels, and taps of each: the two extents of the weight as a matrix.
    tiling : SparseTiling
        How the weight is cut.
    tap_offsets : ndarray of int64, shape (taps of a K block,)
        Position of the input of every tap of a K block, in units of an offset.
    """

    n: int
    k: int
    tiling: SparseTiling
    tap_offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.n % self.tiling.chunks:
            raise ValueError(f"{self.n} channels do not make {self.tiling.chunks} equal chunks")
        if self.tap_offsets.max() >= 1 << 16:
            raise ValueError(
                f"a K block of {self.tiling.k_block} channels is out of reach of 16-bit offsets"
            )

    @staticmethod
    def linear(n: int, k: int, lanes: int, tiling: SparseTiling) -> SparseLayout:
        """Return the layout of a weight ``[N, K]`` that multiplies panels of `lanes` lanes.

        Offsets are in units of `OFFSET_UNIT` floats.
        """
        if lanes % OFFSET_UNIT:
            raise ValueError(f"lanes must be a multiple of {OFFSET_UNIT}, not {lanes}")
        offsets = np.arange(min(tiling.k_block, k)) * (lanes // OFFSET_UNIT)
        return SparseLayout(n, k, tiling, offsets)

    @staticmethod
    def conv2d(problem: Conv2d, tiling: SparseConvTiling) -> SparseLayout:
        """Return the layout of a weight ``[Co, C, kh, kw]`` that meets its inputs in a `Window`.

        Offsets are in floats, because inputs of neighbouring taps lie one float apart.
        """
        return SparseLayout.in_window(problem, sparse_window(problem, tiling), tiling)

    @staticmethod
    def in_window(problem: Conv2d, window: Window, tiling: SparseTiling) -> SparseLayout:
        """Return the layout of a weight ``[Co, C, kh, kw]`` that meets its inputs in `window`.

        Raises
        ------
        ValueError
            If there are several groups, or inputs that the offsets cannot reach.
        """
        if problem.groups != 1:
            raise ValueError(f"a sparse convolution has one group, not {problem.groups}")
        kh, kw = problem.kernel
        offsets = [
            window.offset(channel, dy, dx)
            for channel in range(window.channels)
            for dy in range(kh)
            for dx in range(kw)
        ]
        k = problem.channels * kh * kw
        return SparseLayout(problem.out_channels, k, tiling, np.array(offsets))

    @property
    def block_taps(self) -> int:
        """Taps of a K block."""
        return len(self.tap_offsets)

    @property
    def k_blocks(self) -> int:
        """Number of K blocks."""
        return -(-self.k // self.block_taps)

    @property
    def chunk_channels(self) -> int:
        """Output channels of a chunk."""
        return self.n // self.tiling.chunks

    @property
    def chunk_groups(self) -> int:
        """Groups of a chunk; the last one is filled up by repeating its last channel."""
        return -(-self.chunk_channels // self.tiling.group)

    def bytes(self, density: float, dtype: DType = ACTIVATIONS) -> int:
        """Return the bytes of a packed weight: offsets, values of type `dtype`, a few indices."""
        slots = int(density * self.n * self.k)
        return slots * slot_bytes(dtype) + self.groups * (self.tiling.group + 1) * 4

    @property
    def groups(self) -> int:
        """Groups over all chunks and K blocks."""
        return self.tiling.chunks * self.k_blocks * self.chunk_groups


def sparse_window(problem: Conv2d, tiling: SparseConvTiling) -> Window:
    """Return the memory that the offsets of a packed convolution weight point into."""
    channels = min(tiling.k_block, problem.channels)
    return Window(problem, tiling.width, channels, tiling.shifted)


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
        Position of the non-zero's input, one of the layout's `tap_offsets`. Zero where a
        channel has run out of non-zeros.
    values : ndarray, shape (steps * R,)
        Weights, of the type of the weight. Zero where a channel has run out of non-zeros.
    """

    layout: SparseLayout
    indptr: NDArray[np.int32]
    channels: NDArray[np.int32]
    offsets: NDArray[np.uint16]
    values: NDArray[Any]

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The arrays that a kernel reads, in the order of its operands."""
        return self.indptr, self.channels, self.offsets, self.values

    @staticmethod
    def from_dense(weight: NDArray[np.float32], lanes: int, tiling: SparseTiling) -> PackedSparse:
        """Pack the non-zeros (NaN included) of a linear layer's weight ``[N, K]``."""
        n, k = weight.shape
        return PackedSparse.pack(weight, SparseLayout.linear(n, k, lanes, tiling))

    @staticmethod
    def from_conv2d(
        weight: NDArray[np.float32], problem: Conv2d, tiling: SparseConvTiling
    ) -> PackedSparse:
        """Pack the non-zeros (NaN included) of a convolution's weight ``[Co, C, kh, kw]``."""
        layout = SparseLayout.conv2d(problem, tiling)
        return PackedSparse.pack(weight.reshape(layout.n, layout.k), layout)

    @staticmethod
    def pack(weight: NDArray[Any], layout: SparseLayout) -> PackedSparse:
        """Pack the non-zeros (NaN included) of a weight of shape ``[N, K]``."""
        tiling, size, taps = layout.tiling, layout.chunk_channels, layout.block_taps
        blocks = [
            _pack_block(weight[n : n + size, k : k + taps], n, layout.tap_offsets, tiling)
            for n in range(0, layout.n, size)
            for k in range(0, layout.k, taps)
        ]
        steps, channels, offsets, values = (np.concatenate(p) for p in zip(*blocks, strict=True))
        # One unused step for a weight of zeros, because TVM has no constants of size zero.
        unused = 0 if len(values) else tiling.group
        offsets, values = (np.pad(array, (0, unused)) for array in (offsets, values))
        indptr = np.concatenate([[0], np.cumsum(steps)]).astype("int32")
        return PackedSparse(layout, indptr, channels.astype("int32"), offsets, values)

    def to_dense(self) -> NDArray[Any]:
        """Return the weight of shape ``[N, K]``; the inverse of `pack`."""
        layout = self.layout
        group = layout.tiling.group
        counts = np.diff(self.indptr)
        group_of_step = np.repeat(np.arange(layout.groups), counts)
        used = len(group_of_step) * group
        k_block = (group_of_step // layout.chunk_groups) % layout.k_blocks
        channel = self.channels.reshape(-1, group)[group_of_step].ravel()
        tap_of_offset = np.zeros(1 << 16, np.int64)
        tap_of_offset[layout.tap_offsets] = np.arange(layout.block_taps)
        first_tap = np.repeat(k_block, group) * layout.block_taps
        tap = first_tap + tap_of_offset[self.offsets[:used]]
        value = self.values[:used]
        dense = np.zeros((layout.n, layout.k), value.dtype)
        kept = value != 0
        dense[channel[kept], tap[kept]] = value[kept]
        return dense


def _pack_block(
    block: NDArray[Any],
    first_channel: int,
    tap_offsets: NDArray[np.int64],
    tiling: SparseTiling,
) -> tuple[NDArray[np.integer], ...]:
    """Return steps of each group, channels, offsets and values of one (chunk, K block)."""
    group = tiling.group
    filled = block != 0
    nonzeros = np.count_nonzero(filled, axis=1)
    window = np.arange(len(block)) // tiling.window
    order = np.lexsort((-nonzeros, window))
    # Members of a group are stored together, so a repeated channel is stored twice, alike.
    order = np.pad(order, (0, -len(order) % group), mode="edge")
    counts = nonzeros[order].reshape(-1, group).max(axis=1)
    first_step = np.concatenate([[0], np.cumsum(counts)])
    place, tap = np.nonzero(filled[order])
    row_start = np.concatenate([[0], np.cumsum(nonzeros[order])])
    step = first_step[place // group] + np.arange(len(place)) - row_start[place]
    slot = step * group + place % group
    offsets = np.zeros(first_step[-1] * group, "uint16")
    values = np.zeros(first_step[-1] * group, block.dtype)
    offsets[slot] = tap_offsets[tap]
    values[slot] = block[order[place], tap]
    return counts, order + first_channel, offsets, values

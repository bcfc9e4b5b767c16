"""Which values of a weight become zero: the smallest blocks of all, or the smallest neighbours."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCKS = ("1x1", "1x4", "4x1")
"""Outputs and inputs that become zero together."""

LARGEST_RUN = 64
"""The most neighbouring inputs of which a pattern keeps some."""


def neighbours(pattern: str) -> tuple[int, int] | None:
    """Return how many of so many neighbouring inputs a pattern such as ``"2:4"`` keeps.

    None if it is no such pattern, or one that keeps all or nothing.
    """
    found = re.fullmatch(r"([1-9]\d?):([1-9]\d?)", pattern)
    if found is None:
        return None
    keep, of = int(found[1]), int(found[2])
    return (keep, of) if keep < of <= LARGEST_RUN else None


def zero_neighbours(array: NDArray[Any], keep: int, of: int) -> None:
    """Set all but the largest `keep` of every `of` values along the last axis to zero, in place.

    NaNs count as large. Of the values behind the last whole run, as many stay.
    """
    k = array.shape[-1]
    whole = k // of * of
    for first, size in ((0, of), (whole, k - whole)):
        if size <= keep or first == k:
            continue
        part = array[..., first : whole if first == 0 else k]
        runs = np.abs(part).reshape(*part.shape[:-1], -1, size)
        # The rank of each value, the smallest first.
        ranks = runs.argsort(axis=-1, kind="stable").argsort(axis=-1, kind="stable")
        part[(ranks < size - keep).reshape(part.shape)] = 0


def zero_smallest(arrays: list[NDArray[Any]], sparsity: float, pattern: str) -> None:
    """Set the smallest blocks of all arrays together to zero, in place; NaNs count as large.

    Parameters
    ----------
    arrays : list of numpy.ndarray
        Weights: outputs, places, and inputs.
    sparsity : float
        The share of blocks.
    pattern : str
        One of `BLOCKS`.
    """
    sizes = [int(size) for size in pattern.split("x")]
    grids = [_magnitudes(array, sizes) for array in arrays]
    if not grids:
        return
    magnitudes = np.concatenate([grid.ravel() for grid in grids])
    count = round(sparsity * magnitudes.size)
    smallest = np.zeros(magnitudes.size, bool)
    smallest[np.argpartition(magnitudes, max(count - 1, 0))[:count]] = True
    start = 0
    for array, grid in zip(arrays, grids, strict=True):
        mask = smallest[start : start + grid.size].reshape(grid.shape)
        for axis, size in zip((0, -1), sizes, strict=True):
            mask = np.repeat(mask, size, axis).take(range(array.shape[axis]), axis)
        array[mask] = 0
        start += grid.size


def _magnitudes(array: NDArray[Any], sizes: list[int]) -> NDArray[Any]:
    """Return the mean magnitude of each block of some outputs, or of some inputs."""
    grid = np.abs(array)
    for axis, size in zip((0, -1), sizes, strict=True):
        if size > 1:
            starts = np.arange(0, grid.shape[axis], size)
            counts = np.diff([*starts, grid.shape[axis]])
            shape = [1] * grid.ndim
            shape[axis] = -1
            sums = np.add.reduceat(grid, starts, axis, dtype=np.float32)
            grid = sums / counts.reshape(shape).astype(np.float32)
    return grid

"""Grids that lie one behind another along an axis, such as the anchors of a detector's levels.

The axis of a grid of ``3 h`` rows and ``3 w`` columns has ``9 h w`` elements. So an axis whose
length is a multiple of ``h w`` at every probe is cut into grids, each as long as possible.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.frontends.probes import Sizes

Array = NDArray[Any]
T = TypeVar("T")

MOST_PARTS = 128
"""The most products of two sizes along an axis that are looked at."""


def grids_along(
    arrays: Sequence[Array],
    axis: int,
    at: Sequence[Sizes],
    known: Callable[[Sequence[Array]], T | None],
) -> list[T] | None:
    """Return what `known` says of the grids along an axis.

    Parameters
    ----------
    arrays : sequence of array
        A constant at every probe.
    axis : int
        The axis.
    at : sequence of Sizes
        The probes.
    known : callable
        Returns an expression of a grid, whose rows and columns are two axes in place of `axis`, or
        None.

    Returns
    -------
    list or None
        None if the axis is not made of grids.
    """
    for rows, columns in itertools.permutations(at[0], 2):
        found = _cut(arrays, axis, [(s[rows], s[columns]) for s in at], known)
        if found is not None:
            return found
    return None


def _cut(
    arrays: Sequence[Array],
    axis: int,
    sizes: Sequence[tuple[int, int]],
    known: Callable[[Sequence[Array]], T | None],
) -> list[T] | None:
    """Return the grids whose rows and columns are multiples of two sizes."""
    lengths = {
        array.shape[axis] / (high * wide) for array, (high, wide) in zip(arrays, sizes, strict=True)
    }
    left = lengths.pop()
    if lengths or left != int(left) or left > MOST_PARTS:
        return None
    begin, left, parts = 0, int(left), []
    while left:
        taken, found = next(_grids(arrays, axis, sizes, begin, left, known), (0, None))
        if found is None:
            return None
        parts.append(found)
        begin, left = begin + taken, left - taken
    return parts


def _grids(
    arrays: Sequence[Array],
    axis: int,
    sizes: Sequence[tuple[int, int]],
    begin: int,
    most: int,
    known: Callable[[Sequence[Array]], T | None],
) -> Any:
    """Yield the grids that begin behind `begin` products, the longest ones first."""
    for count in range(most, 0, -1):
        for high in (n for n in range(1, count + 1) if count % n == 0):
            grids = []
            for array, (rows, columns) in zip(arrays, sizes, strict=True):
                area = rows * columns
                piece = np.take(array, range(begin * area, (begin + count) * area), axis)
                own = [*array.shape]
                own[axis : axis + 1] = [high * rows, count // high * columns]
                grids.append(piece.reshape(own))
            found = known(grids)
            if found is not None:
                yield count, found

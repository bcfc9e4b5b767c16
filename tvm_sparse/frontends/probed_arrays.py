"""Arrays of constants at the probes: their parts, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, tirx

Array = NDArray[Any]


def constant(array: Array) -> relax.Expr:
    """Return an array as a constant of its own type, which Relax would make int32 of int64."""
    return relax.const(array, str(array.dtype))


def numbered_axes(array: Array) -> list[tuple[int, int]]:
    """Return the axes of an array with their extents."""
    return list(enumerate(array.shape))


def beginning(array: Array, axis: int, count: int) -> Array:
    """Return the first elements along an axis."""
    return array[(*[slice(None)] * axis, slice(0, count))]


def are_whole(array: Array) -> bool:
    """Whether all values of an array are whole numbers, whatever their type."""
    if array.dtype.kind not in "iuf":
        return False
    return bool(np.isfinite(array).all() and (array == np.floor(array)).all())


def first_along(array: Array, axes: Sequence[int]) -> Array:
    """Return the first element along some axes."""
    return array[tuple(slice(0, 1) if a in axes else slice(None) for a in range(array.ndim))]


def are_equal(a: Array, b: Array) -> bool:
    """Whether two arrays have the same type, shape and bits."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def step_along(array: Array, axis: int) -> Any:
    """Return the difference of the first two elements along an axis; 0 if there is one element."""
    if array.shape[axis] < 2:
        return 0
    second = tuple(int(a == axis) for a in range(array.ndim))
    return (array[second] - array.flat[0]).item()


def int64(size: Any) -> Any:
    """Return a size as an expression."""
    return tirx.IntImm("int64", size) if isinstance(size, int) else size

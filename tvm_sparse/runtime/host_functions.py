"""Operators whose values decide about sizes, computed by NumPy.

TVM has functions in Python for them, too, which a process lacks that loads TVM's runtime alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm_ffi

from tvm_sparse.runtime.empty import with_products_as_strides
from tvm_sparse.specs import HOST_FUNCTIONS


def nonzero(x: tvm_ffi.Tensor) -> tvm_ffi.Tensor:
    """Return the places of the values that are not 0, one in a column."""
    places = np.nonzero(np.atleast_1d(np.from_dlpack(x)))
    return _tensor(np.stack(places))


def unique(
    x: tvm_ffi.Tensor,
    in_order: int,
    first: int,
    places: int,
    counts: int,
    axis: int | None = None,
) -> Any:
    """Return the different values, or slices along an axis, and more if asked for.

    Parameters
    ----------
    x : tensor
        The values.
    in_order : int
        Whether the results are in the order of values, not of their first places.
    first, places, counts : int
        Whether to return the first place of each, the number of the one at each place, and how
        many there are.
    axis : int, optional
        The axis to compare slices along; without it, all values are compared.
    """
    found, firsts, numbers, sums = np.unique(
        np.from_dlpack(x), return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    numbers = numbers.reshape(-1)
    if not in_order:
        order = np.argsort(firsts)
        found, firsts, sums = np.take(found, order, axis), firsts[order], sums[order]
        numbers = np.argsort(order)[numbers]
    more = [(first, firsts), (places, numbers), (counts, sums)]
    results = [_tensor(array) for is_wanted, array in [(True, found), *more] if is_wanted]
    return results if len(results) > 1 else results[0]


def shape_to_tensor(shape: Any) -> tvm_ffi.Tensor:
    """Return sizes as an array."""
    return _tensor(np.array([int(size) for size in shape], "int64"))


def _tensor(array: np.ndarray) -> tvm_ffi.Tensor:
    array = np.require(array, requirements=["C", "W"])
    return tvm_ffi.from_dlpack(with_products_as_strides(array))


# The virtual machine looks them up when a library is loaded.
for _function in (nonzero, unique, shape_to_tensor):
    tvm_ffi.register_global_func(HOST_FUNCTIONS + _function.__name__, _function, override=True)

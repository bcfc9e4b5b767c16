"""Arrays without elements, as compiled code takes them.

It compares the strides of an array with the products of the sizes behind each axis, which are 0 in
front of an axis of no elements. NumPy counts such an axis as one of one element.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def with_products_as_strides(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array whose elements are contiguous, with the strides that TVM expects."""
    if array.size:
        return array
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    return np.lib.stride_tricks.as_strided(
        array, strides=[array.itemsize * stride for stride in strides]
    )

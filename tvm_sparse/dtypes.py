"""Element types of tensors, by the names that NumPy and TVM give them."""

from __future__ import annotations

import functools
import string
from enum import StrEnum

import numpy as np


class DType(StrEnum):
    """The type of a tensor's elements; its value is the name that NumPy and TVM know.

    A word holds the integers of several neighbouring channels; all other types are `FLOATS`.
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    WORDS = "uint32"

    @functools.cached_property
    def bits(self) -> int:
        """Bits of an element."""
        return int(self.value.lstrip(string.ascii_lowercase))

    @functools.cached_property
    def bytes(self) -> int:
        """Bytes of an element."""
        return self.bits // 8


FLOATS = (DType.FLOAT32, DType.FLOAT16)
"""The types that are computed in."""

_OF_ML_DTYPES = ("bfloat16", "float8", "float4", "int4", "uint4")


def element_type(name: object) -> str:
    """Return the name of a type of elements; raise TypeError for another object.

    NumPy knows those of ml_dtypes, such as bfloat16, only if something has imported it.
    """
    if not isinstance(name, str):
        raise TypeError(f"{name!r} names no type")
    if not name.startswith(_OF_ML_DTYPES):
        np.dtype(name)
    return name


def bytes_of(dtype: str) -> int:
    """Return the bytes of an element of any type that NumPy knows by this name."""
    return np.dtype(str(dtype)).itemsize


def longest_sum(dtype: DType) -> int:
    """Return the most products that a kernel sums up in one accumulator of a type.

    Sums in float16 lose digits as they grow. Measured errors (RMS, of the result) are 8e-3 for sums
    of 3,072 products, 2.5e-3 for sums of 256, and 1.2e-3 for sums of 64.
    """
    return 64 if dtype == DType.FLOAT16 else 1 << 40


def holds(array: np.ndarray, dtype: DType) -> bool:
    """Return whether a type represents the numbers of an array about as well as it can.

    float16 ends at 65,504, and has fewer digits below 6.1e-5: a larger number turns infinite, and
    the epsilon of a division turns zero. Small numbers beside large ones may lose digits.
    """
    finite = array[np.isfinite(array)].astype(np.float64)
    with np.errstate(over="ignore"):
        lost = np.abs(finite.astype(dtype).astype(np.float64) - finite)
    return bool(np.all(lost <= np.finfo(dtype).eps * np.max(np.abs(finite), initial=0)))


ACTIVATIONS = DType.FLOAT32
"""The type of panels, and of the weights that meet them, wherever nothing says otherwise."""

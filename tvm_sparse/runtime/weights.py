"""Weights beside the code of a library: a part of its file, which is mapped and never copied.

Each weight begins at a multiple of `ALIGNMENT`. All processes that load a file share its pages.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import tvm_ffi
from numpy.typing import NDArray

from tvm_sparse.dtypes import element_type
from tvm_sparse.runtime.empty import with_products_as_strides

if TYPE_CHECKING:
    import tvm

ALIGNMENT = 64
"""Bytes; compiled code loads whole vectors from the beginning of a weight."""


@dataclass(frozen=True)
class Weight:
    """A weight in a file.

    Attributes
    ----------
    offset : int
        Bytes from the beginning of all weights.
    shape : tuple of int
        The dimensions.
    dtype : str
        The type of the elements in NumPy.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Weights:
    """Where the weights of a library are, and which function reads which.

    Attributes
    ----------
    table : tuple of Weight
        The weights.
    read_by : mapping of str to tuple of int
        For each function, the numbers of the weights that are its last parameters.
    start : int
        The byte of the file at which they begin; 0 before they are written.
    """

    table: tuple[Weight, ...]
    read_by: Mapping[str, tuple[int, ...]]
    start: int = field(default=0, compare=False)

    @classmethod
    def of(
        cls, tensors: Sequence[tvm.runtime.Tensor], read_by: Mapping[str, tuple[int, ...]]
    ) -> Weights | None:
        """Return the places of tensors that follow one another; None if there are none."""
        if not tensors:
            return None
        table, end = [], 0
        for array in (tensor.numpy() for tensor in tensors):
            table.append(Weight(end, array.shape, str(array.dtype)))
            end = _aligned(end + array.nbytes)
        return cls(tuple(table), read_by)

    def to_fields(self) -> dict[str, Any]:
        """Return what `from_fields` reads, as JSON takes it."""
        table = [[weight.offset, weight.shape, weight.dtype] for weight in self.table]
        return {"start": self.start, "table": table, "read_by": dict(self.read_by)}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Weights:
        """Return what `to_fields` made a dictionary of.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it made no such dictionary.
        """
        table = tuple(
            Weight(_count(offset), tuple(map(_count, shape)), element_type(dtype))
            for offset, shape, dtype in fields["table"]
        )
        read_by = {name: tuple(map(_count, found)) for name, found in fields["read_by"].items()}
        if any(number >= len(table) for found in read_by.values() for number in found):
            raise ValueError(f"there are {len(table)} weights")
        return cls(table, read_by, _count(fields["start"]))

    def of_function(self, name: str, tensors: Sequence[Any]) -> list[Any]:
        """Return those of all weights, `tensors`, that a function reads."""
        return [tensors[number] for number in self.read_by.get(name, ())]


def _count(number: Any) -> int:
    """Return a number that counts something; raise ValueError for another one."""
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"{number!r} counts nothing")
    return number


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def by_function(weights: Weights | None, tensors: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the last arguments of each function that reads weights."""
    if weights is None:
        return {}
    return {name: weights.of_function(name, tensors) for name in weights.read_by}


def append_weights(path: Path, weights: Weights, arrays: Sequence[NDArray[Any]]) -> Weights:
    """Write arrays behind the content of a file; return `weights` with where they begin.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with path.open("rb+") as file:
        start = _aligned(file.seek(0, os.SEEK_END))
        for weight, array in zip(weights.table, arrays, strict=True):
            file.seek(start + weight.offset)
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.truncate()  # the last weights may have no bytes
    return replace(weights, start=start)


def map_arrays(file: BinaryIO, weights: Weights) -> list[NDArray[Any]]:
    """Return the weights in a file as arrays in the memory that the file is mapped to.

    A page that somebody writes to becomes a copy, which the file does not see.

    Raises
    ------
    ValueError
        If the file ends before the weights do.
    """
    size = os.fstat(file.fileno()).st_size
    region = np.memmap(file, np.uint8, "c", weights.start, (size - weights.start,))
    return [_part(region, weight) for weight in weights.table]


def map_weights(file: BinaryIO, weights: Weights) -> list[tvm_ffi.Tensor]:
    """Return what `map_arrays` does as tensors."""
    arrays = map_arrays(file, weights)
    return [tvm_ffi.from_dlpack(with_products_as_strides(array)) for array in arrays]


def _part(region: NDArray[np.uint8], weight: Weight) -> NDArray[Any]:
    count = int(np.prod(weight.shape, dtype=np.int64))
    return np.frombuffer(region, weight.dtype, count, weight.offset).reshape(weight.shape)

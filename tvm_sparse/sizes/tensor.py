"""Tensors in panels, and which rows of one an output row sees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.sizes.extent import Extent

Row = Any
"""A row number: an int or an expression of one."""


@dataclass(frozen=True)
class RowMap:
    """Input rows that an output row sees: from ``row * stride // factor - before`` on.

    Attributes
    ----------
    stride : int
        Input rows from one output row to the next.
    before, after : int
        The rows seen are ``[at - before, at + after)``.
    factor : int
        Output rows that share an input row, of a layer that enlarges.
    """

    stride: int = 1
    before: int = 0
    after: int = 1
    factor: int = 1

    def first(self, row: Row) -> Row:
        """Return the first row that an output row sees; it may be negative."""
        return self._at(row) - self.before

    def end(self, end: Row) -> Row:
        """Return where the rows end that the output rows before `end` see."""
        return self._at(end - 1) + self.after

    def _at(self, row: Row) -> Row:
        scaled = row * self.stride if self.stride > 1 else row
        return scaled // self.factor if self.factor > 1 else scaled


@dataclass(frozen=True)
class Tensor:
    """Panels ``[images * rows, channels, lanes]``.

    Attributes
    ----------
    images, rows, channels, lanes : int
        Rows are those of one image. Images and rows may be an `Extent`.
    dtype : DType
        Type of the elements.
    """

    images: int
    rows: int
    channels: int
    lanes: int
    dtype: DType = ACTIVATIONS

    @property
    def is_extended(self) -> bool:
        """Whether images or rows are an `Extent`."""
        return isinstance(self.images, Extent) or isinstance(self.rows, Extent)

    @property
    def planned(self) -> Tensor:
        """The tensor in which every extent is the plain number of its hint."""
        return replace(self, images=int(self.images), rows=int(self.rows))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the panels as an array: rows of all images, channels, lanes."""
        return self.images * self.rows, self.channels, self.lanes

    @property
    def elements(self) -> int:
        """Elements of all rows."""
        return self.images * self.rows * self.channels * self.lanes

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dtype.bytes * self.channels * self.lanes

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return self.images * self.rows * self.row_bytes

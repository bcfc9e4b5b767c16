"""The sizes of a bilinear enlargement on image panels (see `tvm_sparse.sizes.conv2d`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.tensor import RowMap, Tensor

COORDINATES = ("half_pixel", "align_corners", "asymmetric")

_LIKE_ANY = 8
"""Rows of an image that shows which rows are seen in images of any height."""

_ROUNDING = 2.0**-10
"""A bound, in rows, of the rounding error of a float32 position among some thousand rows."""


@dataclass(frozen=True)
class Resize2d:
    """A resizing of images by linear interpolation between neighbouring pixels.

    Attributes
    ----------
    batch, channels, height, width : int
        Extents of the input. Batch and height may be an `Extent`; the output then has a multiple of
        the input's rows.
    out_height, out_width : int
        Extents of the output.
    coordinates : str
        Which points of input and output coincide; one of `COORDINATES`, which are ONNX's names:
        the corners of the outer pixels, their centers, or the upper left corners of all pixels.
    lanes_in, lanes_out : int
        Lanes of the panels of input and output.
    dtype : DType
        Type of the panels.
    """

    batch: int
    channels: int
    height: int
    width: int
    out_height: int
    out_width: int
    coordinates: str
    lanes_in: int = field(kw_only=True)
    lanes_out: int = field(kw_only=True)
    dtype: DType = field(default=ACTIVATIONS, kw_only=True)

    def __post_init__(self) -> None:
        if self.coordinates not in COORDINATES:
            raise ValueError(f"unknown coordinates {self.coordinates!r}; known: {COORDINATES}")
        if self.lanes_in < self.width or self.lanes_out < self.out_width:
            raise ValueError(f"fewer lanes than pixels in a row: {self}")
        if isinstance(self.height, Extent) and (
            self.out_height % self.height != 0 or self.coordinates == "align_corners"
        ):
            raise ValueError(f"the scale depends on a height that is not known: {self}")
        if self.out_width < self.width:
            raise ValueError(f"the image would become narrower: {self}")

    @property
    def input(self) -> Tensor:
        """The panels that the enlargement reads."""
        return Tensor(self.batch, self.height, self.channels, self.lanes_in, self.dtype)

    @property
    def output(self) -> Tensor:
        """The panels that the enlargement computes."""
        return Tensor(self.batch, self.out_height, self.channels, self.lanes_out, self.dtype)

    @property
    def rows_seen(self) -> RowMap:
        """The input rows that an output row sees, or one more row on either side.

        The extra rows are there because rounding may move a position to the row before.
        """
        scale, shift = self.line(0)
        height, out_height = self.height, self.out_height
        if isinstance(height, Extent):  # its rows are repeated a whole number of times
            height, out_height = _LIKE_ANY, _LIKE_ANY * (out_height // height)
        before, after = 0, 1
        for row in range(out_height):
            place, at = scale * row + shift, row * height // out_height
            first = max(math.floor(place - _ROUNDING), 0)
            last = min(math.floor(place + _ROUNDING) + 1, height - 1)
            before, after = max(before, at - first), max(after, last + 1 - at)
        return RowMap(height, before, after, out_height)

    def line(self, axis: int) -> tuple[float, float]:
        """Return (scale, shift): output pixel i lies at ``scale * i + shift`` in the input."""
        extent = (self.height, self.width)[axis]
        out = (self.out_height, self.out_width)[axis]
        if self.coordinates == "align_corners":
            return (extent - 1) / max(out - 1, 1), 0.0
        scale = extent / out
        return scale, scale / 2 - 0.5 if self.coordinates == "half_pixel" else 0.0

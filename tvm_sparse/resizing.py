"""The sizes of a bilinear enlargement on image panels (see `tvm_sparse.convolution`)."""

from __future__ import annotations

from dataclasses import dataclass, field

COORDINATES = ("half_pixel", "align_corners", "asymmetric")


@dataclass(frozen=True)
class Resize2d:
    """A resizing of images by linear interpolation between neighbouring pixels.

    Attributes
    ----------
    batch, channels, height, width : int
        Extents of the input.
    out_height, out_width : int
        Extents of the output.
    coordinates : str
        Which points of input and output coincide, one of `COORDINATES`, by ONNX's names: the
        corners of the outer pixels, their centers, or the upper left corners of all pixels.
    lanes_in, lanes_out : int
        Lanes of the panels of input and output.
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

    def __post_init__(self) -> None:
        if self.coordinates not in COORDINATES:
            raise ValueError(f"unknown coordinates {self.coordinates!r}; known: {COORDINATES}")
        if self.lanes_in < self.width or self.lanes_out < self.out_width:
            raise ValueError(f"fewer lanes than columns: {self}")
        if self.out_width < self.width:
            raise ValueError(f"the image would become narrower: {self}")

    def line(self, axis: int) -> tuple[float, float]:
        """Return (scale, shift) of the place ``scale * i + shift`` in the input of output i."""
        extent = (self.height, self.width)[axis]
        out = (self.out_height, self.out_width)[axis]
        if self.coordinates == "align_corners":
            return (extent - 1) / max(out - 1, 1), 0.0
        scale = extent / out
        return scale, scale / 2 - 0.5 if self.coordinates == "half_pixel" else 0.0

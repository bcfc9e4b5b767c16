"""The sizes of a two-dimensional pooling on image panels (see `tvm_sparse.sizes.conv2d`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.sizes.tensor import RowMap, Tensor
from tvm_sparse.sizes.window import window_key


@dataclass(frozen=True)
class Pool2d:
    """The maximum or the mean of each channel over windows of an image.

    Attributes
    ----------
    batch, channels, height, width : int
        Extents of the input.
    out_height, out_width : int
        Extents of the output; windows that reach beyond the padding have no values there.
    kernel, stride, dilation : tuple of int
        The vertical one, then the horizontal one.
    padding : tuple of int
        Padding around the image, in pixels: top, left, bottom, right.
    count_padding : bool
        Whether the mean counts the padding, too, as zeros.
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
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    count_padding: bool = False
    lanes_in: int = field(kw_only=True)
    lanes_out: int = field(kw_only=True)
    dtype: DType = field(default=ACTIVATIONS, kw_only=True)

    def __post_init__(self) -> None:
        if self.lanes_in < self.width or self.lanes_out < self.out_width:
            raise ValueError(f"fewer lanes than pixels in a row: {self}")

    @property
    def window_key(self) -> str:
        """Text that tells which pixels an output pixel sees, for the tuning records."""
        return window_key(self.kernel, self.stride, self.padding, self.dilation)

    @property
    def input(self) -> Tensor:
        """The panels that the pooling reads."""
        return Tensor(self.batch, self.height, self.channels, self.lanes_in, self.dtype)

    @property
    def output(self) -> Tensor:
        """The panels that the pooling computes."""
        return Tensor(self.batch, self.out_height, self.channels, self.lanes_out, self.dtype)

    @property
    def rows_seen(self) -> RowMap:
        """The input rows that an output row sees."""
        reach = (self.kernel[0] - 1) * self.dilation[0] + 1
        return RowMap(self.stride[0], self.padding[0], reach - self.padding[0])

    def pixels_counted(self, pixel: int) -> int:
        """Return how many pixels of a window's row count in the mean of output pixel `pixel`."""
        _, left, _, right = self.padding if self.count_padding else (0, 0, 0, 0)
        first = pixel * self.stride[1] - self.padding[1]
        seen = range(first, first + self.kernel[1] * self.dilation[1], self.dilation[1])
        return sum(-left <= i < self.width + right for i in seen)

"""The sizes of a two-dimensional convolution on image panels.

An image tensor ``(N, C, H, W)`` lies in panels ``[N * H, C, lanes]``: a row of the image is a row
of panels, and its pixels are the lanes. Lanes from W on hold finite values that nobody may read.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.sizes.tensor import RowMap, Tensor
from tvm_sparse.sizes.window import window_key

WIDEST_KERNEL = 64
"""Taps of the widest row of a kernel. The kernels write out the taps of a row one by one: 256 of
them, as in constant-Q transforms of sound, are code that LLVM takes minutes to compile."""


@dataclass(frozen=True)
class Conv2d:
    """A convolution ``y = conv2d(x, w)`` with ``w [out_channels, channels / groups, kh, kw]``.

    Attributes
    ----------
    batch, channels, height, width : int
        Extents of the input. Batch and height may be an `Extent`.
    out_channels : int
        Channels of the output.
    kernel, stride, dilation : tuple of int
        The vertical one, then the horizontal one.
    padding : tuple of int
        Zeros around the image, in pixels: top, left, bottom, right.
    groups : int
        Groups of channels that do not see one another.
    lanes_in, lanes_out : int
        Lanes of the panels of input and output.
    dtype : DType
        Type of the panels and of the weight.
    """

    batch: int
    channels: int
    height: int
    width: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    lanes_in: int = field(kw_only=True)
    lanes_out: int = field(kw_only=True)
    dtype: DType = field(default=ACTIVATIONS, kw_only=True)

    def __post_init__(self) -> None:
        if self.channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"{self.channels} input and {self.out_channels} output channels do not make "
                f"{self.groups} equal groups"
            )
        if min(self.out_height, self.out_width) < 1:
            raise ValueError(f"the kernel is larger than the padded image: {self}")
        if self.lanes_in < self.width or self.lanes_out < self.out_width:
            raise ValueError(f"fewer lanes than pixels in a row: {self}")

    @property
    def name(self) -> str:
        """Text that names the sizes for people."""
        kind = "depthwise_conv2d" if self.is_depthwise else "conv2d"
        stride = f" / {self.stride[0]}" if self.stride[0] > 1 else ""
        return (
            f"{kind} {self.kernel[0]}x{self.kernel[1]}{stride} "
            f"{self.channels} > {self.out_channels} @ {self.batch}x{self.height}x{self.width}"
        )

    @property
    def key(self) -> str:
        """Text that names the sizes in the tuning records."""
        return (
            f"conv2d batch={self.batch} channels={self.channels} height={self.height} "
            f"width={self.width} out_channels={self.out_channels} {self.window_key} "
            f"groups={self.groups} lanes_in={self.lanes_in} lanes_out={self.lanes_out}"
        )

    @property
    def window_key(self) -> str:
        """The part of `key` that tells which pixels an output pixel sees."""
        return window_key(self.kernel, self.stride, self.padding, self.dilation)

    @property
    def out_height(self) -> int:
        """Rows of the output image."""
        top, _, bottom, _ = self.padding
        reach = (self.kernel[0] - 1) * self.dilation[0] + 1
        return (self.height + top + bottom - reach) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        """Pixels in a row of the output image."""
        _, left, _, right = self.padding
        reach = (self.kernel[1] - 1) * self.dilation[1] + 1
        return (self.width + left + right - reach) // self.stride[1] + 1

    @property
    def planned(self) -> Conv2d:
        """The convolution in which every extent is the plain number of its hint."""
        return replace(self, batch=int(self.batch), height=int(self.height))

    @property
    def input(self) -> Tensor:
        """The panels that the convolution reads."""
        return Tensor(self.batch, self.height, self.channels, self.lanes_in, self.dtype)

    @property
    def output(self) -> Tensor:
        """The panels that the convolution computes."""
        return Tensor(self.batch, self.out_height, self.out_channels, self.lanes_out, self.dtype)

    @property
    def output_lanes(self) -> int:
        """Lanes of an output row that hold results; nobody may read the lanes behind them."""
        return self.out_width

    @property
    def rows_seen(self) -> RowMap:
        """The input rows that an output row sees."""
        reach = (self.kernel[0] - 1) * self.dilation[0] + 1
        return RowMap(self.stride[0], self.padding[0], reach - self.padding[0])

    @property
    def is_linear(self) -> bool:
        """Whether panels make it a linear layer of ``N * H`` rows."""
        return (
            self.kernel == (1, 1)
            and self.stride == (1, 1)
            and not any(self.padding)
            and self.groups == 1
        )

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has a kernel of its own."""
        return self.groups == self.channels == self.out_channels


@dataclass(frozen=True)
class Window:
    """How a block of input channels of some image rows is gathered for the multiply-adds.

    Pixels outside the image are stored as zeros, so that every weight meets its inputs at one
    distance from the output's position, wherever that is. A row is stored as ``[channels, planes,
    pitch]``. A plane holds every ``stride``-th pixel from its origin on, so that neighbouring
    outputs meet neighbouring inputs:

    * shared planes: there is one for each remainder of the pixels' numbers modulo the stride.
      Horizontal kernel positions of one remainder read the same plane, shifted by some lanes, and
      the zeros behind a plane are also those in front of the next plane. They take little memory,
      but most vector loads are not aligned, and a load that crosses a cache line counts as two.
    * shifted planes: there is one for each horizontal kernel position. All loads are aligned.

    Attributes
    ----------
    problem : Conv2d
        The convolution.
    width : int
        Values per vector; the length of a plane is a multiple of it.
    channels : int
        Input channels of a block.
    shifted : bool
        Whether planes are shifted instead of shared.
    """

    problem: Conv2d
    width: int
    channels: int
    shifted: bool = False

    @functools.cached_property
    def origins(self) -> tuple[int, ...]:
        """The pixel in lane 0 of every plane; it may lie outside of the image."""
        if self.shifted:
            return self._pixels
        return tuple(sorted({pixel % self.problem.stride[1] for pixel in self._pixels}))

    @functools.cached_property
    def lead(self) -> int:
        """Lanes by which loads may reach back before a plane."""
        return max(0, -min(shift for _, shift in self._reads))

    @functools.cached_property
    def pitch(self) -> int:
        """Lanes from one plane to the next."""
        lanes = self.vectors * self.width
        if not self.shifted:
            held = -(-self.problem.width // self.problem.stride[1])
            last = self.problem.out_width + max(shift for _, shift in self._reads)
            lanes = max(held + self.lead, last)
        return -(-lanes // self.width) * self.width

    @functools.cached_property
    def vectors(self) -> int:
        """Vectors of an output row."""
        return -(-self.problem.out_width // self.width)

    @functools.cached_property
    def channel_pitch(self) -> int:
        """Floats from one channel to the next."""
        return len(self.origins) * self.pitch

    @functools.cached_property
    def row_pitch(self) -> int:
        """Floats from one row to the next."""
        return self.channels * self.channel_pitch

    @functools.cached_property
    def out_row_pitch(self) -> int:
        """Floats from the inputs of one output row to those of the next."""
        return self.problem.stride[0] * self.row_pitch

    @functools.cached_property
    def front(self) -> int:
        """Zeros in front of the first row: `lead`, in whole vectors."""
        return -(-self.lead // self.width) * self.width

    def rows(self, out_rows: int) -> int:
        """Return how many input rows `out_rows` output rows see."""
        problem = self.problem
        return (
            (out_rows - 1) * problem.stride[0] + (problem.kernel[0] - 1) * problem.dilation[0] + 1
        )

    def size(self, out_rows: int) -> int:
        """Return the floats of the memory for `out_rows` output rows, with zeros around them."""
        return self.front + self.rows(out_rows) * self.row_pitch + self.back

    @functools.cached_property
    def back(self) -> int:
        """Zeros behind the last row, in whole vectors."""
        reach = self.vectors * self.width + max(shift for _, shift in self._reads) - self.pitch
        return max(0, -(-reach // self.width) * self.width)

    def offset(self, channel: int, dy: int, dx: int) -> int:
        """Return the place of a weight's first input, in floats from ``front - lead`` on."""
        plane, shift = self._reads[dx]
        row = dy * self.problem.dilation[0] * self.row_pitch
        return row + channel * self.channel_pitch + plane * self.pitch + shift + self.lead

    @functools.cached_property
    def _pixels(self) -> tuple[int, ...]:
        """The pixel that output pixel 0 sees through every horizontal kernel position."""
        problem = self.problem
        return tuple(
            dx * problem.dilation[1] - problem.padding[1] for dx in range(problem.kernel[1])
        )

    @functools.cached_property
    def _reads(self) -> tuple[tuple[int, int], ...]:
        """The plane of every horizontal kernel position, and the shift of its loads in lanes."""
        if self.shifted:
            return tuple((plane, 0) for plane in range(self.problem.kernel[1]))
        stride, origins = self.problem.stride[1], self.origins
        return tuple((origins.index(c % stride), c // stride) for c in self._pixels)

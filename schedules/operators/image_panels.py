"""Copies between images ``[batch, channels, height, width]`` and their panels.

A row of the image is a row of panels, and its pixels are the lanes, so that both directions copy
rows. If the last vector of a row is not whole, it overlaps the vector before it.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.costs.vectors import vector_cycles
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.schedules.emit.buffers import filled
from tvm_sparse.schedules.emit.buffers import vector as vector_at
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.stage import Stage, kernel
from tvm_sparse.sizes.tensor import RowMap, Tensor

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

LONGEST_UNROLLED = 8
"""Most whole vectors of a row that are unrolled; more vectors become a loop."""


def image_to_panels(
    batch: int,
    channels: int,
    height: int,
    width: int,
    lanes: int,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
) -> tvm.tirx.PrimFunc:
    """Build the conversion of images to panels; lanes behind the last pixel become 0.

    Returns
    -------
    PrimFunc
        ``(x [batch, channels, height, width], y [batch * height, channels, lanes])``, x float32
        and y of type `dtype`.
    """
    return kernel(ImageToPanels(batch, channels, height, width, lanes, cpu, dtype))


def panels_to_image(
    batch: int,
    channels: int,
    height: int,
    width: int,
    lanes: int,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
) -> tvm.tirx.PrimFunc:
    """Build the conversion of panels to images.

    Returns
    -------
    PrimFunc
        ``(x [batch * height, channels, lanes], y [batch, channels, height, width])``, x of type
        `dtype` and y float32.
    """
    return kernel(PanelsToImage(batch, channels, height, width, lanes, cpu, dtype))


class _LayoutChange(Stage):
    """Copies rows between images and panels.

    Parameters
    ----------
    batch, channels, height, width : int
        Extents of the images.
    lanes : int
        Lanes of the panels.
    cpu : CpuProfile
        Gives the vector length.
    dtype : DType
        Type of the panels; images are float32.
    """

    def __init__(
        self,
        batch: int,
        channels: int,
        height: int,
        width: int,
        lanes: int,
        cpu: CpuProfile,
        dtype: DType = ACTIVATIONS,
    ) -> None:
        self.width, self.vector = width, _vector(width, lanes, cpu, dtype)
        self.images = Tensor(batch, height, channels, width, dtype)
        self.laid_out = Tensor(batch, height, channels, lanes, dtype)
        source, self.tensor = self._ends()
        self.panels = {"x": (source, RowMap())}

    @abstractmethod
    def _ends(self) -> tuple[Tensor, Tensor]:
        """Return the tensor that is copied, and the tensor that it becomes."""

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare the tensor that is copied."""
        self.x = panels("x")

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        # In images, the rows of a channel lie one after another.
        with T.serial(T.int64(0), T.int64(self.tensor.channels)) as channel:
            for row, _ in self.each_tile(first, end):
                source, result = self.x.tile(image, row), y.tile(image, row)
                self._each_vector(functools.partial(self._copy, source, result, channel))
                self._end_row(source, result, channel)

    def _copy(self, x: Tile, y: Tile, channel: Expr, lane: Expr | int) -> None:
        """Copy the vector from a lane on."""
        y.store(x[0, channel, self._at(lane)], 0, channel, self._at(lane))

    @abstractmethod
    def _end_row(self, x: Tile, y: Tile, channel: Expr) -> None:
        """Copy the pixels that fill no vector."""

    def work(self) -> int:
        """Return how many values it stores."""
        return self.tensor.elements

    def cycles(self) -> float:
        """Return the compute cycles of all rows, from the nearest cache, summed over cores."""
        return vector_cycles(self.tensor.elements // self.vector, loads=1, stores=1)

    def _at(self, lane: Expr | int) -> Expr | int:
        """Return the index of the vector from a lane on."""
        if self.vector == 1:
            return lane
        return vector_at(T.int64(lane) if isinstance(lane, int) else lane, self.vector)

    def _each_vector(self, visit: Callable[[Expr | int], None]) -> None:
        """Visit the first lane of every vector that is full of pixels."""
        count = self.width // self.vector
        if count > LONGEST_UNROLLED:
            with T.serial(T.int64(0), T.int64(count)) as i:
                visit(i * self.vector)
        else:
            for i in range(count):
                visit(i * self.vector)


class ImageToPanels(_LayoutChange):
    """The conversion of images to panels; parameters as of `image_to_panels`."""

    name = "image_to_panels"
    reads_images = ("x",)

    def _ends(self) -> tuple[Tensor, Tensor]:
        """Return images and panels."""
        return self.images, self.laid_out

    def _end_row(self, x: Tile, y: Tile, channel: Expr) -> None:
        """Copy the pixels that fill no vector; lanes behind the last one become 0."""
        vector, width = self.vector, self.width
        zeros = filled(0, vector, self.images.dtype)
        for lane in range(width // vector * vector, self.tensor.lanes, vector):
            valid, values = width - lane, zeros
            if valid > 0:
                last = T.bind(x[0, channel, self._at(width - vector)])
                places = [min(vector - valid + j, vector) for j in range(vector)]
                values = T.Shuffle([last, zeros], places)
            y.store(values, 0, channel, self._at(lane))


class PanelsToImage(_LayoutChange):
    """The conversion of panels to images; parameters as of `panels_to_image`."""

    name = "panels_to_image"
    writes_images = True

    def _ends(self) -> tuple[Tensor, Tensor]:
        """Return panels and images."""
        return self.laid_out, self.images

    def _end_row(self, x: Tile, y: Tile, channel: Expr) -> None:
        """Copy the pixels that fill no vector, with some before them."""
        if self.width % self.vector:
            self._copy(x, y, channel, self.width - self.vector)


def _vector(width: int, lanes: int, cpu: CpuProfile, dtype: DType) -> int:
    """Return the values per vector: no more than a row has pixels."""
    longest = cpu.vector_width(lanes, dtype)
    return next((v for v in (longest, 16, 8, 4) if v <= min(width, longest)), 1)

"""Nearest-neighbour upsampling of image panels by whole factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.costs.vectors import vector_cycles, vectors_of
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.schedules.emit.buffers import filled, vector
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.stage import Stage, kernel
from tvm_sparse.sizes.tensor import RowMap, Tensor

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


def upsample2d(
    batch: int,
    channels: int,
    height: int,
    width: int,
    factors: tuple[int, int],
    lanes_in: int,
    lanes_out: int,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
) -> tvm.tirx.PrimFunc:
    """Build the repetition of every pixel `factors` times, vertically and horizontally.

    Returns
    -------
    PrimFunc
        ``(x [batch * height, channels, lanes_in], y [batch * height * factors[0], channels,
        lanes_out])``, of type `dtype`.
    """
    source = Tensor(batch, height, channels, lanes_in, dtype)
    return kernel(Upsample2d(source, width, factors, lanes_out, cpu))


class Upsample2d(Stage):
    """The repetition of every pixel, vertically and horizontally.

    Parameters
    ----------
    source : Tensor
        The images.
    width : int
        Pixels of their rows.
    factors : tuple of int
        Repetitions of a pixel, vertically and horizontally.
    lanes_out : int
        Lanes of the result.
    cpu : CpuProfile
        Gives the vector length.
    """

    name = "upsample2d"

    def __init__(
        self, source: Tensor, width: int, factors: tuple[int, int], lanes_out: int, cpu: CpuProfile
    ) -> None:
        self.source, self.pixels, self.factors, self.cpu = source, width, factors, cpu
        rows = source.rows * factors[0]
        self.tensor = replace(source, rows=rows, lanes=lanes_out)
        self.panels = {"x": (source, RowMap(factor=factors[0]))}
        self.row_block = factors[0]

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare the images."""
        self.x = panels("x")

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        copies = self.factors[0]
        for row, _ in self.each_tile(first, end):
            x, tile = self.x.tile(image, row // copies), y.tile(image, row)
            with T.serial(T.int64(0), T.int64(self.tensor.channels)) as channel:
                self._repeat(x, tile, channel)

    def _repeat(self, x: Tile, y: Tile, channel: Expr) -> None:
        """Repeat the pixels of a channel of a row."""
        lanes_in, lanes_out = self.source.lanes, self.tensor.lanes
        values = self.cpu.vector_width(lanes_out, self.tensor.dtype)
        for lane in range(0, lanes_out, values):
            pixels = [(lane + j) // self.factors[1] for j in range(values)]
            if pixels[0] < self.pixels:
                # At most two neighbouring vectors hold them; lanes of no pixel may repeat others.
                first = min(pixels[0], lanes_in - values) if lanes_in >= values else 0
                span = min(values, lanes_in)
                source = x[0, channel, vector(T.int64(first), span)]
                places = [min(pixel - first, span - 1) for pixel in pixels]
                # LLVM needs as many lanes to choose from as it returns.
                sources = [source] * (values // span)
                repeated = T.bind(T.Shuffle(sources, places))
            else:
                repeated = filled(0, values, self.tensor.dtype)
            y.store(repeated, 0, channel, vector(T.int64(lane), values))

    def work(self) -> int:
        """Return how many values it stores."""
        return self.tensor.elements

    def cycles(self) -> float:
        """Return the compute cycles of all rows, from the nearest cache, summed over cores."""
        return vector_cycles(vectors_of(self.tensor, self.cpu), 2, stores=1)  # load and shuffle

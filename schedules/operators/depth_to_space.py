"""Blocks of pixels out of channels: what ONNX calls DepthToSpace, on image panels."""

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


def depth_to_space(
    batch: int,
    channels: int,
    height: int,
    width: int,
    block: tuple[int, int],
    mode: str,
    lanes_in: int,
    lanes_out: int,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
) -> tvm.tirx.PrimFunc:
    """Build the arrangement of groups of channels as blocks of pixels.

    Parameters
    ----------
    batch, channels, height, width : int
        Extents of the input, ``channels`` a multiple of the pixels of a block.
    block : tuple of int
        Height and width of a block.
    mode : str
        As `DepthToSpace` takes it.

    Returns
    -------
    PrimFunc
        ``(x [batch * height, channels, lanes_in], y [batch * height * block[0], channels //
        (block[0] * block[1]), lanes_out])``, of type `dtype`.
    """
    source = Tensor(batch, height, channels, lanes_in, dtype)
    return kernel(DepthToSpace(source, width, block, mode, lanes_out, cpu))


class DepthToSpace(Stage):
    """The arrangement of groups of channels as blocks of pixels, as ONNX defines it.

    Pixel ``(i * block[0] + a, j * block[1] + b)`` of channel c is pixel (i, j) of the channel
    ``(a * block[1] + b) * out_channels + c`` in mode DCR, and ``(c * block[0] + a) * block[1] + b``
    in mode CRD.

    Parameters
    ----------
    source : Tensor
        The images.
    width : int
        Pixels of their rows.
    block : tuple of int
        Height and width of a block.
    mode : str
        ONNX's name of the order of the channels: "DCR" or "CRD".
    lanes_out : int
        Lanes of the result.
    cpu : CpuProfile
        Gives the vector length.
    """

    name = "depth_to_space"

    def __init__(
        self,
        source: Tensor,
        width: int,
        block: tuple[int, int],
        mode: str,
        lanes_out: int,
        cpu: CpuProfile,
    ) -> None:
        self.source, self.pixels, self.block, self.cpu = source, width, block, cpu
        pixels = block[0] * block[1]
        channels = source.channels // pixels
        self.steps = (1, channels) if mode == "DCR" else (pixels, 1)
        rows = source.rows * block[0]
        self.tensor = replace(source, rows=rows, channels=channels, lanes=lanes_out)
        self.panels = {"x": (source, RowMap(factor=block[0]))}
        self.row_block = block[0]

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare the images."""
        self.x = panels("x")

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        high, wide = self.block
        for row, _ in self.each_tile(first, end):
            x, tile = self.x.tile(image, row // high), y.tile(image, row)
            of_channel, of_pixel = self.steps
            first = T.bind(row % high * (wide * of_pixel))
            with T.serial(T.int64(0), T.int64(self.tensor.channels)) as channel:
                self._interleave(x, tile, first + channel * of_channel, channel)

    def _interleave(self, x: Tile, y: Tile, first: Expr, channel: Expr) -> None:
        """Store a channel of a row: the pixels of the channels from `first` on, in turns."""
        lanes_in, wide = self.source.lanes, self.block[1]
        values = self.cpu.vector_width(self.tensor.lanes, self.tensor.dtype)
        span = min(values, lanes_in)
        for lane in range(0, self.tensor.lanes, values):
            if lane // wide >= self.pixels:
                stored = filled(0, values, self.tensor.dtype)
            else:
                begin = min(lane // wide, lanes_in - span)
                at = vector(T.int64(begin), span)
                sources = [x[0, first + b * self.steps[1], at] for b in range(wide)]
                # LLVM needs as many lanes to choose from as it returns.
                sources *= -(-values // (wide * span))
                stored = T.bind(T.Shuffle(sources, self._places(lane, begin, span, values)))
            y.store(stored, 0, channel, vector(T.int64(lane), values))

    def _places(self, lane: int, begin: int, span: int, values: int) -> list[int]:
        """Return where the pixels of a vector lie among the vectors of the channels.

        Lanes of no pixel repeat others.
        """
        wide = self.block[1]
        pixels = range(lane, lane + values)
        return [p % wide * span + min(p // wide - begin, span - 1) for p in pixels]

    def work(self) -> int:
        """Return how many values it stores."""
        return self.tensor.elements

    def cycles(self) -> float:
        """Return the compute cycles of all rows, from the nearest cache, summed over cores."""
        return vector_cycles(vectors_of(self.tensor, self.cpu), 1 + self.block[1], stores=1)

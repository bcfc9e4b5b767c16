"""Panels of strips into panels of other strips of the same images.

The loops, for each row::

    for vector of its lanes:
        find the two vectors of the operand that hold its pixels, and which of them exist
        for channel:
            two loads, a shuffle, and a choice between pixels and the value beside the image
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.costs.vectors import vector_cycles
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.schedules.emit.buffers import filled, only_lanes, opaque, vector
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.emit.sizes import factor, size
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.strips import Strips, strip_sizes
from tvm_sparse.sizes.tensor import RowMap, Tensor

if TYPE_CHECKING:
    from tvm.ir import Expr


class RecutStrips(Stage):
    """The copy of panels of strips into panels of other strips of the same images.

    It reads rows of other strips than the one it computes, so that its operand is never made by a
    stage of the same region.

    Parameters
    ----------
    images : tuple of int
        Batch, channels and height of the images.
    cuts : pair of Strips
        How they are cut in the operand, by `pixels` and `count`, and in the result.
    lanes : pair of int
        Lanes of the operand and of the result.
    cpu : CpuProfile
        Gives the vector length.
    dtype : DType
        Type of both panels.
    beside : float
        The value of pixels outside of the images.
    """

    name = "recut_strips"
    from_outside = ("x",)

    def __init__(
        self,
        images: tuple[int, int, int],
        cuts: tuple[Strips, Strips],
        lanes: tuple[int, int],
        cpu: CpuProfile,
        dtype: DType = ACTIVATIONS,
        beside: float = 0.0,
    ) -> None:
        (batch, channels, height), (before, strips) = images, cuts
        self.before, self.strips, self.beside = before, strips, beside
        self.width = cpu.vector_width(math.gcd(*lanes, before.pixels, strips.step), dtype)
        operand, self.tensor = (
            Tensor(batch * cut.count, height, channels, count, dtype)
            for cut, count in zip(cuts, lanes, strict=True)
        )
        self.panels = {"x": (operand, RowMap())}
        self.other_sizes = strip_sizes(batch, height, before, strips)

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare the panels that are cut again."""
        self.x = panels("x")

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of a strip."""
        before, strips, width = self.before, self.strips, self.width
        count = factor(strips.count)
        whole, strip = T.bind(image // count), T.bind(image % count)
        ahead = -strips.left // width * width  # vectors of x begin at whole vectors of its strips
        shift = -strips.left - ahead
        seen = T.bind(strip * strips.step + ahead)
        outside = filled(self.beside, width, self.tensor.dtype)
        for row, _ in self.each_tile(first, end):
            result = y.tile(image, row)

            def place(pixel: Expr, row: Expr = row, whole: Expr = whole) -> tuple[Tile, Expr]:
                """Return the row of x with a pixel, or another one of the image, and its lane."""
                had = size(before.count)
                number = T.bind(pixel // before.pixels)
                held = T.max(T.min(number, had - 1), T.int64(0))
                lane = T.bind(pixel - number * before.pixels)
                return self.x.tile(T.bind(whole * had + held), row), lane

            with T.serial(T.int64(0), T.int64(self.tensor.lanes // width)) as v:
                pixel = T.bind(seen + v * width)
                (low, a), (high, b) = place(pixel), place(pixel + width)
                start = T.bind(pixel + shift)
                begin, last = opaque(-start), opaque(size(before.out_width) - start)
                with T.serial(T.int64(0), T.int64(self.tensor.channels)) as channel:
                    value = low[0, channel, vector(a, width)]
                    if shift:
                        more = high[0, channel, vector(b, width)]
                        value = T.Shuffle([value, more], [shift + lane for lane in range(width)])
                    value = only_lanes(value, begin, last, outside)
                    result.store(value, 0, channel, vector(v * width, width))

    def cycles(self) -> float:
        """Return the compute cycles of all rows, from the nearest cache, summed over cores."""
        return vector_cycles(self.tensor.elements // self.width, loads=2, stores=1, operations=2)

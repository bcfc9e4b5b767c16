"""Between images ``[batch, channels, height, width]`` and image panels ``[rows, channels, lanes]``.

A row of the image is a row of panels, its columns the lanes, so that both directions copy rows.
The last vector of a row that is not whole overlaps the one before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.columns import Tensor
from tvm_sparse.schedules.buffers import argument, job_loop
from tvm_sparse.schedules.buffers import vector as vector_at
from tvm_sparse.schedules.stage import Panels, Stage, Tile, kernel
from tvm_sparse.targets import CpuProfile
from tvm_sparse.vector_cost_model import vector_cycles

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

LONGEST_UNROLLED = 8
"""Vectors of a row from which on the whole ones become a loop."""


def image_to_panels(
    batch: int, channels: int, height: int, width: int, lanes: int, cpu: CpuProfile
) -> tvm.tirx.PrimFunc:
    """Build the conversion of images to panels; lanes behind the last column become 0.

    Returns
    -------
    PrimFunc
        ``(x [batch, channels, height, width], y [batch * height, channels, lanes])``, float32.
    """
    return kernel(ImageToPanels(batch, channels, height, width, lanes, cpu))


class ImageToPanels(Stage):
    """The conversion of images, which are no panels, to panels.

    Parameters
    ----------
    batch, channels, height, width : int
        Extents of the images.
    lanes : int
        Lanes of the result.
    cpu : CpuProfile
        Gives the vector length.
    """

    name = "image_to_panels"

    def __init__(
        self, batch: int, channels: int, height: int, width: int, lanes: int, cpu: CpuProfile
    ) -> None:
        self.width, self.vector = width, _vector(width, lanes, cpu)
        self.tensor = Tensor(batch, height, channels, lanes)
        self.panels = {}

    def declare(self, panels: Callable[[int], Panels]) -> None:
        """Declare the images."""
        tensor = self.tensor
        self.x = argument("x", tensor.images, tensor.channels, tensor.rows, self.width)

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        for row, _ in self.tiles(first, end):
            tile = y.tile(image, row)
            with T.serial(T.int64(0), T.int64(self.tensor.channels)) as channel:
                self._copy(tile, image, channel, row)

    def _copy(self, y: Tile, image: Expr, channel: Expr, row: Expr) -> None:
        """Copy a channel of a row; lanes behind the last column become 0."""
        vector, width = self.vector, self.width
        zeros = T.Broadcast(T.float32(0), vector) if vector > 1 else T.float32(0)

        def load(column: Expr | int) -> Expr:
            return self.x[image, channel, row, _at(column, vector)]

        def store(lane: Expr | int) -> None:
            y.store(load(lane), 0, channel, _at(lane, vector))

        _each_vector(width // vector, vector, store)
        for lane in range(width // vector * vector, self.tensor.lanes, vector):
            valid, values = width - lane, zeros
            if valid > 0:
                last = T.bind(load(width - vector))
                places = [min(vector - valid + j, vector) for j in range(vector)]
                values = T.Shuffle([last, zeros], places)
            y.store(values, 0, channel, _at(lane, vector))

    def work(self) -> int:
        """Return how many values it stores."""
        return self.tensor.bytes // 4

    def cycles(self) -> float:
        """Return the compute cycles of all rows, from the nearest cache, summed over cores."""
        return vector_cycles(self.tensor.bytes // 4 // self.vector, loads=1, stores=1)


def panels_to_image(
    batch: int, channels: int, height: int, width: int, lanes: int, cpu: CpuProfile
) -> tvm.tirx.PrimFunc:
    """Build the conversion of panels to images.

    Returns
    -------
    PrimFunc
        ``(x [batch * height, channels, lanes], y [batch, channels, height, width])``, float32.
    """
    vector = _vector(width, lanes, cpu)
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("panels_to_image")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", batch * height, channels, lanes)
        y = argument("y", batch, channels, height, width)
        rows = job_loop(batch * height, batch * channels * height * lanes)
        with rows as i, T.sblock("panels_to_image"):
            row = T.axis.spatial(T.int64(batch * height), i)
            image, line = row // height, row % height
            T.reads(x[row, 0:channels, 0:lanes])
            T.writes(y[image, 0:channels, line, 0:width])
            with T.serial(T.int64(0), T.int64(channels)) as channel:

                def copy(lane: Expr | int) -> None:
                    value = x[row, channel, _at(lane, vector)]
                    T.buffer_store(y, value, [image, channel, line, _at(lane, vector)])

                _each_vector(width // vector, vector, copy)
                if width % vector:
                    copy(width - vector)
    return builder.get()


def _vector(width: int, lanes: int, cpu: CpuProfile) -> int:
    """Return the values per vector: no more than a row has columns."""
    longest = cpu.vector_width(lanes)
    return next((v for v in (longest, 8, 4) if v <= min(width, longest)), 1)


def _at(lane: Expr | int, vector: int) -> Expr:
    return (
        vector_at(T.int64(lane) if isinstance(lane, int) else lane, vector) if vector > 1 else lane
    )


def _each_vector(count: int, vector: int, visit: Callable[[Expr | int], None]) -> None:
    """Visit the first lane of `count` vectors."""
    if count > LONGEST_UNROLLED:
        with T.serial(T.int64(0), T.int64(count)) as i:
            visit(i * vector)
    else:
        for i in range(count):
            visit(i * vector)

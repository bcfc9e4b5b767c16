"""Loops over the vectors of a row of panels, for stages that treat all vectors alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import vector

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.schedules.emit.panel_memory import Panels, Tile

COPIED_LANES = 4
"""Values of a vector of `copy_rows`; the lanes of all panels are a multiple of it."""

LONGEST_UNROLLED = 8
"""Most vectors of a channel that are unrolled; more of them become a loop."""


def each_vector(channels: int, lanes: int, width: int) -> Iterator[tuple[Expr, Expr]]:
    """Yield the channel and the lanes of every vector of a row."""
    with T.serial(T.int64(0), T.int64(channels)) as channel:
        if lanes // width > LONGEST_UNROLLED:
            with T.serial(T.int64(0), T.int64(lanes // width)) as i:
                yield channel, vector(i * width, width)
        else:
            for lane in range(0, lanes, width):
                yield channel, vector(T.int64(lane), width)


def copy_channels(
    x: Tile, y: Tile, first_read: int, first_written: int, channels: int, lanes: int, width: int
) -> None:
    """Copy `channels` channels of a row from `first_read` on, to those from `first_written` on."""
    for channel, lane in each_vector(channels, lanes, width):
        y.store(x[0, channel + first_read, lane], 0, channel + first_written, lane)


def copy_rows(source: Panels, y: Panels, image: Expr, first: Expr, end: Expr) -> None:
    """Copy rows ``[first, end)`` of an image."""
    tensor = source.tensor
    with T.serial(T.int64(0), end - first) as i:
        rows, out = source.tile(image, first + i), y.tile(image, first + i)
        channels = T.serial(T.int64(0), T.int64(tensor.channels))
        vectors = T.serial(T.int64(0), T.int64(tensor.lanes // COPIED_LANES))
        with channels as channel, vectors as v:
            lanes = vector(v * COPIED_LANES, COPIED_LANES)
            out.store(rows[0, channel, lanes], 0, channel, lanes)

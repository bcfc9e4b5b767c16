"""Between images ``[batch, channels, height, width]`` and image panels ``[rows, channels, lanes]``.

A row of the image is a row of panels, its columns the lanes, so that both directions copy rows.
The last vector of a row that is not whole overlaps the one before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.buffers import argument, job_loop
from tvm_sparse.schedules.buffers import vector as vector_at

if TYPE_CHECKING:
    from collections.abc import Callable

    import tvm
    from tvm.ir import Expr

    from tvm_sparse.targets import CpuProfile

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
    vector = _vector(width, lanes, cpu)
    zeros = T.Broadcast(T.float32(0), vector) if vector > 1 else T.float32(0)
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("image_to_panels")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", batch, channels, height, width)
        y = argument("y", batch * height, channels, lanes)
        rows = job_loop(batch * height, batch * channels * height * lanes)
        with rows as i, T.sblock("image_to_panels"):
            row = T.axis.spatial(T.int64(batch * height), i)
            image, line = row // height, row % height
            T.reads(x[image, 0:channels, line, 0:width])
            T.writes(y[row, 0:channels, 0:lanes])
            with T.serial(T.int64(0), T.int64(channels)) as channel:

                def copy(lane: Expr | int) -> None:
                    value = x[image, channel, line, _at(lane, vector)]
                    T.buffer_store(y, value, [row, channel, _at(lane, vector)])

                _each_vector(width // vector, vector, copy)
                whole = width // vector * vector
                for lane in range(whole, lanes, vector):
                    valid, values = width - lane, zeros
                    if valid > 0:
                        last = T.bind(x[image, channel, line, _at(width - vector, vector)])
                        places = [min(vector - valid + j, vector) for j in range(vector)]
                        values = T.Shuffle([last, zeros], places)
                    T.buffer_store(y, values, [row, channel, _at(lane, vector)])
    return builder.get()


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

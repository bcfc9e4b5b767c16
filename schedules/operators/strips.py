"""Copies between images, whose width may be open, and the panels of their strips."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.schedules.emit.buffers import (
    argument,
    converted,
    job_loop,
    number,
    vector,
)
from tvm_sparse.schedules.emit.sizes import declare, named, size
from tvm_sparse.sizes.strips import strip_sizes

if TYPE_CHECKING:
    from collections.abc import Callable

    import tvm
    from tvm.ir import Expr

    from tvm_sparse.cpu.profile import CpuProfile
    from tvm_sparse.sizes.strips import Strips


def to_strips(
    images: tuple[int, int, int],
    strips: Strips,
    lanes: int,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
    beside: float = 0.0,
) -> tvm.tirx.PrimFunc:
    """Build the copy of images into panels of their strips.

    Parameters
    ----------
    images : tuple of int
        Batch, channels and height of the images; batch and height may be an `Extent`.
    strips : Strips
        How their rows are cut.
    lanes : int
        Lanes of the panels.
    cpu : CpuProfile
        Gives the vector length.
    dtype : DType
        Type of the panels; images are float32.
    beside : float
        The value of pixels outside of the images.

    Returns
    -------
    PrimFunc
        ``(x [batch, channels, height, width], y [batch * strips * height, channels, lanes])``,
        x float32 and y of type `dtype`. Lanes behind a strip hold other pixels, or `beside`. All
        these functions take those of `strip_sizes` that are an `Extent` behind their operand.
    """
    batch, channels, height = images
    shape = batch, channels, height, strips.width
    width = cpu.vector_width(lanes, dtype)

    def copy(x: Expr, y: Expr, row: Expr, place: tuple[Expr, Expr, Expr], channel: Expr) -> None:
        image, strip, line = place
        first = T.bind(strip * strips.step - strips.left)
        with T.If(T.And(first >= 0, first + lanes <= size(strips.width))):
            with T.Then(), T.serial(T.int64(0), T.int64(lanes // width)) as i:
                values = x[image, channel, line, vector(first + i * width, width)]
                T.buffer_store(
                    y, converted(values, dtype), [row, channel, vector(i * width, width)]
                )
            with T.Else(), T.serial(T.int64(0), T.int64(lanes)) as lane:
                pixel = T.bind(first + lane)
                T.buffer_store(y, number(beside, dtype), [row, channel, lane])
                with T.If(T.And(pixel >= 0, pixel < size(strips.width))), T.Then():
                    value = converted(x[image, channel, line, pixel], dtype)
                    T.buffer_store(y, value, [row, channel, lane])

    return _copies("to_strips", shape, strips, lanes, dtype, copy)


def from_strips(
    images: tuple[int, int, int],
    strips: Strips,
    lanes: int,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
) -> tvm.tirx.PrimFunc:
    """Build the copy of panels of strips into images.

    Parameters
    ----------
    images, strips, lanes, cpu, dtype
        As `to_strips` takes them; the height is that of the output.

    Returns
    -------
    PrimFunc
        ``(x [batch * strips * height, channels, lanes], y [batch, channels, height, out_width])``,
        x of type `dtype` and y float32.
    """
    batch, channels, height = images
    shape = batch, channels, height, strips.out_width
    width = cpu.vector_width(strips.pixels, dtype)

    def copy(x: Expr, y: Expr, row: Expr, place: tuple[Expr, Expr, Expr], channel: Expr) -> None:
        image, strip, line = place
        first = T.bind(strip * strips.pixels)
        rest = size(strips.out_width) - (size(strips.count) - 1) * strips.pixels
        with T.If(strip < size(strips.count) - 1):
            with T.Then(), T.serial(T.int64(0), T.int64(strips.pixels // width)) as i:
                values = converted(x[row, channel, vector(i * width, width)], ACTIVATIONS)
                T.buffer_store(y, values, [image, channel, line, vector(first + i * width, width)])
            with T.Else(), T.serial(T.int64(0), rest) as pixel:
                value = converted(x[row, channel, pixel], ACTIVATIONS)
                T.buffer_store(y, value, [image, channel, line, first + pixel])

    return _copies("from_strips", shape, strips, lanes, dtype, copy)


def _copies(
    name: str,
    shape: tuple[int, int, int, int],
    strips: Strips,
    lanes: int,
    dtype: DType,
    copy: Callable[[Expr, Expr, Expr, tuple[Expr, Expr, Expr], Expr], None],
) -> tvm.tirx.PrimFunc:
    """Build a function ``(x, y)`` that visits every channel of every row of panels."""
    batch, channels, height, _ = shape
    order = slice(None) if name == "to_strips" else slice(None, None, -1)
    with (
        named(strip_sizes(batch, height, strips)) as variables,
        IRBuilder() as builder,
        T.prim_func(s_tir=True, private=True),
    ):
        lines, counts = size(height), size(strips.count)
        rows = size(batch) * (size(strips.count) * lines)
        images, panels = tuple(map(size, shape)), (rows, channels, lanes)
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        (read, read_type), (written, written_type) = [(images, ACTIVATIONS), (panels, dtype)][order]
        x = argument("x", *read, dtype=read_type)
        declare(variables)
        y = argument("y", *written, dtype=written_type)
        elements = batch * strips.count * height * channels * lanes
        with job_loop(rows, elements) as i, T.sblock(name):
            row = T.axis.spatial(rows, i)
            T.reads(x[tuple(slice(0, extent) for extent in read)])
            T.writes(y[tuple(slice(0, extent) for extent in written)])
            image = T.bind(row // (counts * lines))
            strip, line = T.bind(row // lines % counts), T.bind(row % lines)
            with T.serial(T.int64(0), T.int64(channels)) as channel:
                copy(x, y, row, (image, strip, line), channel)
    return builder.get()

"""Gathers the input rows that a block of output rows of a convolution sees into a `Window`."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import filled, opaque, vector
from tvm_sparse.schedules.emit.sizes import factor, size
from tvm_sparse.sizes.conv2d import Window
from tvm_sparse.sizes.flat_window import FlatWindow
from tvm_sparse.sizes.joined_window import JoinedWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from tvm.ir import Expr

    from tvm_sparse.schedules.emit.panel_memory import Panels

LONGEST_UNROLLED = 8
"""Most vectors of a plane, with pixels in all lanes, that are unrolled; more become a loop."""


def gather_window(
    x: Panels,
    memory: Expr,
    window: Window,
    image: Expr,
    first_row: Expr,
    rows: Expr,
    most_rows: int,
    channel: Expr,
    count: int,
) -> None:
    """Copy `count` channels of some image rows into a window.

    Parameters
    ----------
    x : Panels
        The images.
    memory : Buffer
        Flat memory of at least `Window.size` elements for the rows.
    window : Window
        The layout of the stored rows.
    image : Expr
        Number of the image in the batch.
    first_row, rows : Expr
        Row of the image that becomes row 0 of the window, and the number of rows; rows may lie
        outside of the image.
    most_rows : int
        An upper bound of `rows`.
    channel : Expr
        The first channel.
    count : int
        Number of channels, at most those of the window.
    """
    problem = window.problem
    width = math.gcd(problem.lanes_in, window.width)
    fill_with_zeros = _filling(memory, window, width)
    if window.front:
        fill_with_zeros(T.int64(0), window.front)
    rows = opaque(rows)
    # The bounds of the loop are constants, see `opaque`.
    with T.serial(T.int64(0), T.int64(most_rows)) as row, T.If(opaque(rows - row) > 0), T.Then():
        source_row = opaque(first_row + row)
        start = T.bind(row * window.row_pitch + window.front)
        if window.back:  # the next row overwrites these zeros
            fill_with_zeros(start + window.row_pitch, window.back)
        if window.front and count < window.channels:  # the next row reaches back to them
            fill_with_zeros(start + (window.row_pitch - window.front), window.front)
        with T.If(T.And(source_row >= 0, source_row < factor(x.tensor.rows))):
            with T.Then():
                source = _source(x, image, source_row, channel, count, window)
                with T.serial(T.int64(0), T.int64(count)) as c:
                    load = _loading(x, source, c, width)
                    for plane, origin in enumerate(window.origins):
                        begin = start + c * window.channel_pitch + plane * window.pitch
                        _gather_plane(window, origin, width, load, _storing(memory, begin, width))
            with T.Else():
                fill_with_zeros(start, count * window.channel_pitch)


def gather_joined(
    x: Panels,
    memory: Expr,
    window: JoinedWindow,
    image: Expr,
    first_row: Expr,
    out_rows: int,
    channel: Expr,
    count: int,
) -> None:
    """Copy `count` channels of the image rows that a tile sees into a window that joins rows.

    Parameters
    ----------
    x, memory, window, image, first_row, channel, count
        As `gather_window` takes them; the memory holds `JoinedWindow.held` elements.
    out_rows : int
        Output rows of the tile. Rows that no output row sees become zeros.
    """
    problem, stride = window.problem, window.problem.stride[0]
    width = math.gcd(problem.lanes_in, window.pitch)
    fill_with_zeros = _filling(memory, window, width)
    if window.front:
        fill_with_zeros(T.int64(0), window.front)
    fill_with_zeros(T.int64(window.front + count * window.channel_pitch), 2 * window.width)
    end = opaque(T.min(first_row + window.rows(out_rows), size(x.tensor.rows)))
    part_rows, planes = window.vectors_of(out_rows), len(window.origins)
    for (number, phase), part in itertools.product(enumerate(window.phases), range(window.joined)):
        # Also rows that a small tile does not see: the next plane reaches back to the last one.
        with T.serial(T.int64(0), T.int64(window.phase_rows)) as row:
            source_row = opaque(first_row + ((row + part * part_rows) * stride + phase))
            place = number * planes * window.plane_pitch + part * window.pitch + window.front
            start = T.bind(row * window.width + place)
            with T.If(T.And(source_row >= 0, source_row < end)):
                with T.Then():
                    source = _source(x, image, source_row, channel, count, window)
                    with T.serial(T.int64(0), T.int64(count)) as c:
                        load = _loading(x, source, c, width)
                        for plane, origin in enumerate(window.origins):
                            begin = start + c * window.channel_pitch + plane * window.plane_pitch
                            store = _storing(memory, begin, width)
                            _gather_plane(window, origin, width, load, store)
                with T.Else(), T.serial(T.int64(0), T.int64(count)) as c:
                    for plane in range(planes):
                        begin = start + c * window.channel_pitch + plane * window.plane_pitch
                        fill_with_zeros(begin, window.pitch)


def gather_flat(
    x: Panels,
    memory: Expr,
    held: int,
    window: FlatWindow,
    image: Expr,
    first_row: Expr,
    rows: Expr,
) -> None:
    """Copy the image rows that a run of output rows sees into a window without gaps.

    Parameters
    ----------
    x, memory, window, image, first_row
        As `gather_window` takes them; all channels are copied.
    held : int
        Elements of the memory, whose end becomes zeros.
    rows : Expr
        The number of the image rows. Further rows of the window become zeros.
    """
    problem, stride = window.problem, window.problem.stride[0]
    width = math.gcd(problem.lanes_in, window.width)
    fill_with_zeros = _filling(memory, window, width)
    if window.front:
        fill_with_zeros(T.int64(0), window.front)
    behind = -(-(held - window.end) // width) * width
    fill_with_zeros(T.int64(held - behind), behind)
    end = opaque(T.min(first_row + rows, size(x.tensor.rows)))
    planes = len(window.origins)
    # A row is stored in whole vectors: the zeros behind it give way to the next row.
    with T.serial(T.int64(0), T.int64(problem.channels)) as c:
        for number, phase in enumerate(window.phases):
            for plane, origin in enumerate(window.origins):
                place = (number * planes + plane) * window.plane_pitch + window.front
                start = T.bind(c * window.channel_pitch + place)
                with T.serial(T.int64(0), T.int64(window.phase_rows)) as row:
                    source_row = opaque(first_row + (row * stride + phase))
                    begin = T.bind(start + row * window.pitch)
                    with T.If(T.And(source_row >= 0, source_row < end)):
                        with T.Then():
                            source = _source(x, image, source_row, c, 1, window)
                            load = _loading(x, source, T.int64(0), width)
                            store = _storing(memory, begin, width)
                            _gather_plane(window, origin, width, load, store)
                        with T.Else():
                            fill_with_zeros(begin, -(-window.pitch // width) * width)


def _filling(memory: Expr, window: Window, width: int) -> Callable[[Expr, int], None]:
    """Return the function that stores `count` zeros from a place on."""
    zero = filled(0, width, window.problem.dtype)

    def fill_with_zeros(start: Expr, count: int) -> None:
        with T.serial(T.int64(0), T.int64(count // width)) as i:
            T.buffer_store(memory, zero, [vector(start + i * width, width)])

    return fill_with_zeros


def _source(x: Panels, image: Expr, row: Expr, channel: Expr, count: int, window: Window) -> Expr:
    """Return a view of `count` channels of a row of the images."""
    held = (count - 1) * x.channel_pitch + window.problem.lanes_in
    return x.flat(x.at(image, row), channel, T.int64(0), held)


def _loading(x: Panels, source: Any, channel: Expr, width: int) -> Callable[[Expr | int], Expr]:
    """Return the function that loads a vector of a channel of a row."""
    first = channel * x.channel_pitch
    return lambda i: source[vector(first + i * width, width)]


def _storing(memory: Expr, begin: Expr, width: int) -> Callable[[Expr | int, Expr], None]:
    """Return the function that stores a vector of a plane of the window."""

    def store(i: Expr | int, value: Expr) -> None:
        T.buffer_store(memory, value, [vector(begin + i * width, width)])

    return store


def _gather_plane(
    window: Window,
    origin: int,
    width: int,
    load: Callable[[Expr | int], Expr],
    store: Callable[[Expr | int, Expr], None],
) -> None:
    """Store every vector of a plane: pixels ``origin + lane * stride``, zeros beside the image."""
    stride, image_width = window.problem.stride[1], window.problem.width
    vectors = -(-window.pitch // width)
    zero = filled(0, width, window.problem.dtype)
    pixels = [
        [origin + (i * width + lane) * stride for lane in range(width)] for i in range(vectors)
    ]
    inside = [i for i in range(vectors) if pixels[i][0] >= 0 and pixels[i][-1] < image_width]
    looped = set(inside) if len(inside) > LONGEST_UNROLLED else set()
    if looped:
        with T.serial(T.int64(inside[0]), T.int64(inside[-1] + 1)) as i:
            ahead = (i - inside[0]) * stride
            store(i, select_pixels(pixels[inside[0]], image_width, zero, lambda j: load(ahead + j)))
    for i in range(vectors):
        if i not in looped:
            store(i, select_pixels(pixels[i], image_width, zero, load))


def select_pixels(
    pixels: list[int],
    image_width: int,
    zero: Expr,
    load: Callable[[Expr | int], Expr],
) -> Expr:
    """Return the vector of the given pixels of a row; pixels outside of the image are 0."""
    width = len(pixels)
    valid = [0 <= pixel < image_width for pixel in pixels]
    value = None if all(valid) else zero
    for source in sorted({pixel // width for pixel, v in zip(pixels, valid, strict=True) if v}):
        lanes = [
            pixel - source * width if v and pixel // width == source else None
            for pixel, v in zip(pixels, valid, strict=True)
        ]
        loaded = T.bind(load(source))
        if lanes == list(range(width)):
            return loaded
        if value is None:  # later sources overwrite the lanes that are not theirs
            value = T.bind(T.Shuffle([loaded, loaded], [lane or 0 for lane in lanes]))
        else:
            mix = [i if lane is None else width + lane for i, lane in enumerate(lanes)]
            value = T.bind(T.Shuffle([value, loaded], mix))
    return value

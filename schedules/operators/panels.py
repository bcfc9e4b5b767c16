"""Copies of sequences ``[batch, tokens, channels]`` to panels ``[rows, channels, lanes]`` and back.

Each sequence of a batch is padded to whole blocks of `lanes` tokens, so that ``rows = batch *
ceil(tokens / lanes)``. A tile of one vector of tokens by one vector of channels is transposed in
registers. The last tile of channels overlaps the one before it, so that every tile is whole.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.schedules.emit.buffers import argument, converted, filled, number, opaque
from tvm_sparse.schedules.emit.buffers import vector as vector_at
from tvm_sparse.schedules.emit.sizes import declare, factor, named, size
from tvm_sparse.schedules.emit.transpose import transpose
from tvm_sparse.sizes.extent import Extent

if TYPE_CHECKING:
    from collections.abc import Callable

    import tvm
    from tvm.ir import Expr

    from tvm_sparse.cpu.profile import CpuProfile


Moves: TypeAlias = "tuple[Callable[[int, int, Expr], None], Callable[[int, bool, Expr], None]]"
"""The arguments `move_tile` and `move_value` of `visit_panel`."""


def panel_rows(batch: Any, tokens: Any, lanes: int) -> Any:
    """Return the number of panels that hold a batch of sequences, of numbers or expressions."""
    return batch * -(-tokens // lanes)


def to_panels(
    batch: int,
    tokens: int,
    channels: int,
    lanes: int,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
) -> tvm.tirx.PrimFunc:
    """Build the conversion of sequences to panels; lanes behind the last token become 0.

    Returns
    -------
    PrimFunc
        ``(x [batch, tokens, channels], y [rows, channels, lanes])``, x float32 and y of type
        `dtype`.
    """

    def moves(x: Expr, y: Expr, panel: _Panel) -> Moves:
        row, sequence, token, vector = panel.row, panel.sequence, panel.token, panel.vector

        def move_tile(lane: int, valid: int, channel: Expr) -> None:
            rows_of_tile = [filled(0, vector)] * vector
            for t in range(valid):
                source = panel.inside(token + lane + t)
                rows_of_tile[t] = T.bind(x[sequence, source, vector_at(channel, vector)])
            for c, values in enumerate(transpose(rows_of_tile) if valid else rows_of_tile):
                T.buffer_store(
                    y, converted(values, dtype), [row, channel + c, vector_at(lane, vector)]
                )

        def move_value(lane: int, valid: bool, channel: Expr) -> None:
            source = panel.inside(token + lane)
            value = x[sequence, source, channel] if valid else number(0)
            T.buffer_store(y, converted(value, dtype), [row, channel, lane])

        return move_tile, move_value

    return _conversion("to_panels", (batch, tokens, channels), lanes, cpu, dtype, moves)


def from_panels(
    batch: int,
    tokens: int,
    channels: int,
    lanes: int,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
) -> tvm.tirx.PrimFunc:
    """Build the conversion of panels to sequences.

    Returns
    -------
    PrimFunc
        ``(x [rows, channels, lanes], y [batch, tokens, channels])``, x of type `dtype` and y
        float32.
    """

    def moves(x: Expr, y: Expr, panel: _Panel) -> Moves:
        row, sequence, token, vector = panel.row, panel.sequence, panel.token, panel.vector

        def move_tile(lane: int, valid: int, channel: Expr) -> None:
            if not valid:
                return
            rows_of_tile = [
                T.bind(converted(x[row, channel + c, vector_at(lane, vector)], ACTIVATIONS))
                for c in range(vector)
            ]
            for t, values in enumerate(transpose(rows_of_tile)[:valid]):
                place = [sequence, token + lane + t, vector_at(channel, vector)]
                with panel.if_inside(token + lane + t):
                    T.buffer_store(y, values, place)

        def move_value(lane: int, valid: bool, channel: Expr) -> None:
            if valid:
                value = converted(x[row, channel, lane], ACTIVATIONS)
                with panel.if_inside(token + lane):
                    T.buffer_store(y, value, [sequence, token + lane, channel])

        return move_tile, move_value

    return _conversion("from_panels", (batch, tokens, channels), lanes, cpu, dtype, moves)


@dataclass(frozen=True)
class _Panel:
    """A panel, and where its tokens lie.

    Attributes
    ----------
    row, sequence, token : Expr
        Number of the panel, its sequence, and the first of its tokens.
    vector : int
        Lanes and channels of a tile.
    tokens : int
        Tokens of a sequence. If they are an `Extent`, any lane of a panel may lie behind the last
        token.
    """

    row: Expr
    sequence: Expr
    token: Expr
    vector: int
    tokens: int

    def inside(self, token: Expr) -> Expr:
        """Return a token to read: the last one for those behind it, whose lanes nobody reads."""
        if not isinstance(self.tokens, Extent):
            return token
        return opaque(T.min(token, size(self.tokens) - 1))

    @contextlib.contextmanager
    def if_inside(self, token: Expr) -> Iterator[None]:
        """Open the condition that a token is none behind the last one, if that is possible."""
        if not isinstance(self.tokens, Extent):
            yield
            return
        with T.If(token < size(self.tokens)), T.Then():
            yield


def _conversion(
    name: str,
    sequences: tuple[int, int, int],
    lanes: int,
    cpu: CpuProfile,
    dtype: DType,
    moves: Callable[[Expr, Expr, _Panel], Moves],
) -> tvm.tirx.PrimFunc:
    """Build a function ``(x, y)`` that visits every panel.

    Parameters
    ----------
    name : str
        ``"to_panels"`` or ``"from_panels"``.
    sequences : tuple of int
        Batch, tokens and channels.
    lanes : int
        Lanes of a panel.
    cpu : CpuProfile
        Gives the vector length.
    dtype : DType
        Type of the panels.
    moves : callable
        ``moves(x, y, panel)`` returns the last two arguments of `visit_panel`.
    """
    batch, tokens, channels = sequences
    is_sized = isinstance(tokens, Extent)
    vector = math.gcd(lanes, cpu.vector_lanes())
    order = slice(None) if name == "to_panels" else slice(None, None, -1)
    dtypes = [ACTIVATIONS, dtype][order]
    with (
        named(sequences) as variables,
        IRBuilder() as builder,
        T.prim_func(s_tir=True, private=True),
    ):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        blocks = panel_rows(1, factor(tokens), lanes)
        rows = factor(batch) * blocks
        shapes = [[factor(batch), factor(tokens), channels], [rows, channels, lanes]][order]
        x = argument("x", *shapes[0], dtype=dtypes[0])
        declare(variables)
        y = argument("y", *shapes[1], dtype=dtypes[1])
        count = T.int64(rows) if isinstance(rows, int) else rows
        with T.parallel(T.int64(0), count) as i, T.sblock(name):
            row = T.axis.spatial(count, i)
            sequence, token = row // blocks, row % blocks * lanes
            first, second = [sequence, row][order]
            T.reads(x[first, 0 : shapes[0][1], 0 : shapes[0][2]])
            T.writes(y[second, 0 : shapes[1][1], 0 : shapes[1][2]])
            if is_sized:
                sequence, token = opaque(sequence), opaque(token)
            panel = _Panel(row, sequence, token, vector, tokens)
            held = lanes if is_sized else tokens  # of a panel that may be the last one
            visit_panel(row % blocks, held, channels, lanes, vector, *moves(x, y, panel))
    return builder.get()


def visit_panel(
    block: Expr,
    tokens: int,
    channels: int,
    lanes: int,
    vector: int,
    move_tile: Callable[[int, int, Expr], None],
    move_value: Callable[[int, bool, Expr], None],
) -> None:
    """Cover the panel of a block of tokens with tiles, or with values if no tile fits.

    Parameters
    ----------
    block : Expr
        Number of the block in its sequence.
    tokens, channels, lanes, vector : int
        Tokens and channels of a sequence, lanes of a panel, lanes and channels of a tile.
    move_tile : callable
        ``move_tile(lane, valid, channel)`` moves the tile that begins there, of which the first
        `valid` lanes are tokens.
    move_value : callable
        ``move_value(lane, valid, channel)`` moves one value, which may belong to a token or not.
    """

    def visit(valid: int) -> None:
        if channels < vector:
            with T.serial(T.int64(0), T.int64(channels)) as channel:
                for lane in range(lanes):
                    move_value(lane, lane < valid, channel)
            return
        with T.serial(T.int64(0), T.int64(-(-channels // vector))) as tile:
            first = T.bind(T.min(tile * vector, T.int64(channels - vector)))
            for lane in range(0, lanes, vector):
                move_tile(lane, min(max(valid - lane, 0), vector), first)

    blocks, rest = -(-tokens // lanes), tokens % lanes
    if blocks == 1 or not rest:
        visit(rest or lanes)
        return
    with T.If(block == blocks - 1):
        with T.Then():
            visit(rest)
        with T.Else():
            visit(lanes)

"""Cuts an elementwise block into pieces without conditions and divisions.

A `relax.concat` or `relax.nn.pad` that is inlined into its consumer has a choice in each element:
``out[i] = if i < 3: a[i] else: b[i - 3]``. Cut at 3, both pieces are plain copies. An inlined
reshape has a division in each element, ``out[i] = a[i // 5, i % 5]``. With an axis for the quotient
and one for the remainder, ``out[j * 5 + k] = a[j, k]``, it has none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tvm
from tvm import tirx
from tvm_ffi import structural_walk

from tvm_sparse.schedules.default.reduction import Axis, substitute, variables

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.s_tir import SBlock

MOST_PIECES = 32
"""Most pieces of a block, each of which becomes a loop nest; a block of more stays whole."""

# The values of left - right from which on a comparison changes its outcome.
_EDGES: dict[type, tuple[int, ...]] = {
    tirx.LT: (0,),
    tirx.GE: (0,),
    tirx.LE: (1,),
    tirx.GT: (1,),
    tirx.EQ: (0, 1),
    tirx.NE: (0, 1),
}


@dataclass(frozen=True)
class Piece:
    """A part of a block's elements.

    Attributes
    ----------
    axes : tuple of Axis
        The loops, outermost first; each counts from 0.
    store : BufferStore
        The computation of an element.
    """

    axes: tuple[Axis, ...]
    store: tirx.BufferStore


def cut(block: SBlock) -> list[Piece] | None:
    """Return the pieces of a block, or None if cutting it gains nothing or is not possible."""
    store = block.body
    if not isinstance(store, tirx.BufferStore) or block.init is not None:
        return None
    axes = []
    for axis in block.iter_vars:
        begin, extent = axis.dom.min, axis.dom.extent
        if not isinstance(extent, tirx.IntImm) or not isinstance(begin, tirx.IntImm) or begin != 0:
            return None
        if int(axis.iter_type) != tirx.IterVar.DataPar:
            return None
        axes.append(Axis(axis.var, int(extent)))
    whole = _simplified(Piece(tuple(axes), store))
    waiting, done = [whole], []
    while waiting:
        piece = waiting.pop()
        edges = next(_edges(piece), None)
        if edges is None:
            done.append(_without_divisions(piece))
        else:
            waiting += _cut_at(piece, *edges)
        if len(waiting) + len(done) > MOST_PIECES:
            return None
    unchanged = len(done) == 1 and len(done[0].axes) == len(whole.axes)
    return None if unchanged else done


def _edges(piece: Piece) -> Iterator[tuple[Axis, list[int]]]:
    """Yield axes on which comparisons change their outcome, with the places where they do."""
    found: list[Expr] = []
    for kind in _EDGES:
        structural_walk(piece.store.value, (kind, found.append))
    for axis in piece.axes:
        places = set()
        for comparison in found:
            linear = _linear(comparison.a - comparison.b, axis.var)
            if linear is None:
                continue
            slope, base = linear
            for least in _EDGES[type(comparison)]:
                # The first place where slope * place + base is on the other side of `least`.
                distance = least - base if slope > 0 else base - least + 1
                places.add(-(-distance // abs(slope)))
        inside = sorted(place for place in places if 0 < place < axis.extent)
        if inside:
            yield axis, inside


def _linear(difference: Expr, var: Var) -> tuple[int, int] | None:
    """Return the numbers `(slope, base)` of ``slope * var + base``, or None."""
    if variables(difference).keys() != {var}:
        return None
    linear = tvm.sym.detect_linear_equation(difference, [var])
    numbers = [int(number) for number in linear if isinstance(number, tirx.IntImm)]
    return (numbers[0], numbers[1]) if len(numbers) == 2 and numbers[0] else None


def _cut_at(piece: Piece, axis: Axis, places: list[int]) -> list[Piece]:
    bounds = [0, *places, axis.extent]
    parts = []
    for begin, end in itertools.pairwise(bounds):
        part = Axis(_fresh(axis.var), end - begin)
        axes = tuple(part if a is axis else a for a in piece.axes)
        parts.append(_replaced(piece, axes, {axis.var: part.var + begin}))
    return parts


def _without_divisions(piece: Piece) -> Piece:
    """Split an axis that indices divide into several, as far as the divisors divide one another."""
    for axis in piece.axes:
        divisors = sorted(d for d in _divisors(piece.store, axis.var) if 1 < d < axis.extent)
        bounds = [1, *divisors, axis.extent]
        if not divisors or any(b % a for a, b in itertools.pairwise(bounds)):
            continue
        parts = [(Axis(_fresh(axis.var), b // a), a) for a, b in itertools.pairwise(bounds)]
        place = sum((part.var * stride for part, stride in parts[1:]), parts[0][0].var)
        position = piece.axes.index(axis)
        inner = tuple(part for part, _ in reversed(parts))
        axes = (*piece.axes[:position], *inner, *piece.axes[position + 1 :])
        return _without_divisions(_replaced(piece, axes, {axis.var: place}))
    return piece


def _divisors(store: tirx.BufferStore, var: Var) -> set[int]:
    """Return the numbers that a variable, or its remainder, is divided by in indices."""
    found: set[int] = set()

    def visit(division: Expr) -> None:
        dividend = division.a.a if isinstance(division.a, tirx.FloorMod) else division.a
        if dividend.same_as(var) and isinstance(division.b, tirx.IntImm):
            found.add(int(division.b))

    for kind in (tirx.FloorDiv, tirx.FloorMod):
        structural_walk(store, (kind, visit))
    return found


def _replaced(piece: Piece, axes: tuple[Axis, ...], values: dict[Var, Expr]) -> Piece:
    return _simplified(Piece(axes, substitute(piece.store, values)))


def _simplified(piece: Piece) -> Piece:
    """Simplify indices and conditions for the axes' ranges, and remove axes of one element."""
    store = piece.store
    single = {axis.var: tirx.IntImm(axis.var.ty.dtype, 0) for axis in piece.axes if axis.extent < 2}
    if single:
        store = substitute(store, single)
    analyzer = tvm.sym.Analyzer()
    axes = tuple(axis for axis in piece.axes if axis.var not in single)
    for axis in axes:
        dtype = axis.var.ty.dtype
        begin, extent = tirx.IntImm(dtype, 0), tirx.IntImm(dtype, axis.extent)
        analyzer.bind(axis.var, tvm.ir.Range.from_min_extent(begin, extent))
    indices = [analyzer.simplify(index) for index in store.indices]
    return Piece(axes, tirx.BufferStore(store.buffer, analyzer.simplify(store.value), indices))


def _fresh(var: Var) -> Var:
    return tirx.Var(var.name, var.ty.dtype)


def elements(piece: Piece) -> int:
    """Return how many elements a piece has."""
    return math.prod(axis.extent for axis in piece.axes)

"""Strided views: the results of chains of reshapes, transposes and slices of a tensor.

Element (i, j, ...) of a view lies in its base, read in row-major order, at
`offset + i * stride_i + j * stride_j + ...`. An axis that was merged from several axes has several
strides, one for each of its *atoms*; so every reshape of a transpose is still a view.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from tvm import relax

from tvm_sparse.passes.ir.shapes import extents_of, reshaped
from tvm_sparse.sizes.extent import in_general

Atom: TypeAlias = tuple[int, int]
"""(extent, stride in elements of the base); the extent is not known to be 1."""


@dataclass(frozen=True)
class View:
    """A strided view of a tensor.

    Attributes
    ----------
    base : relax.Expr
        The tensor that the view shows.
    axes : tuple of tuple of Atom
        The atoms of every axis, outermost first; none for an axis of extent 1.
    offset : int
        Position in `base` of the view's first element.
    factor : float
        The elements of the view are those of the base, multiplied by this number.
    """

    base: relax.Expr
    axes: tuple[tuple[Atom, ...], ...]
    offset: int = 0
    factor: float = 1.0

    @staticmethod
    def whole(base: relax.Expr) -> View | None:
        """Return `base` as a view of itself, or None if its shape is not known or it is empty."""
        shape = extents_of(base)
        if shape is None or 0 in shape:
            return None
        return View(base, tuple((atom,) if atom[0] != 1 else () for atom in _row_major(shape)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the axes."""
        return tuple(math.prod(extent for extent, _ in axis) for axis in self.axes)

    @property
    def atoms(self) -> list[Atom]:
        """The atoms of all axes, outermost first, neighbours merged where they are one run."""
        merged: list[Atom] = []
        for extent, stride in (atom for axis in self.axes for atom in axis):
            if merged and merged[-1][1] == extent * stride:
                extent *= merged.pop()[0]
            merged.append((extent, stride))
        return merged

    def reshape(self, shape: Sequence[int]) -> View | None:
        """Return the view in another shape, or None if an axis would have no fixed strides."""
        if 0 in shape:
            return None
        rest, axes = self.atoms, []
        for extent in shape:
            axis: list[Atom] = []
            while extent != 1:
                size, stride = rest.pop(0) if rest else (0, 0)
                if size != 0 and size != extent and size % extent == 0:
                    inner = size // extent
                    rest.insert(0, (inner, stride))
                    size, stride = extent, stride * inner
                elif size == 0 or extent % size != 0:
                    return None
                axis.append((size, stride))
                extent //= size
            axes.append(tuple(axis))
        return None if rest else replace(self, axes=tuple(axes))

    def permute(self, order: Iterable[int]) -> View:
        """Return the view whose axis i is axis `order[i]` of this one."""
        return replace(self, axes=tuple(self.axes[i] for i in order))

    def slice(self, axis: int, begin: int, end: int) -> View | None:
        """Return the view of positions [begin, end) of an axis, or None if it is not strided."""
        atoms, offset = list(self.axes[axis]), self.offset
        while len(atoms) > 1:
            inner = math.prod(extent for extent, _ in atoms[1:])
            if begin // inner != (end - 1) // inner:
                break
            offset += begin // inner * atoms.pop(0)[1]
            begin, end = begin % inner, (end - 1) % inner + 1
        if atoms:
            (_, stride), *rest = atoms
            inner = math.prod(extent for extent, _ in rest)
            if begin % inner or end % inner:
                return None
            offset += begin // inner * stride
            count = (end - begin) // inner
            atoms = [(count, stride), *rest] if count != 1 else rest
        axes = (*self.axes[:axis], tuple(atoms), *self.axes[axis + 1 :])
        return replace(self, axes=axes, offset=offset)

    def materialize(self) -> relax.Expr | None:
        """Write the view as the shortest chain of operators on its base, leaving out `factor`.

        Returns
        -------
        relax.Expr or None
            None for a view that is not a permutation of the base, or of a range of its last axis.
        """
        compact = _compact(self)
        if compact is None:
            return None
        value, shape, atoms = compact
        ordered = sorted(atoms, key=lambda atom: -in_general(atom[1]))
        if atoms != ordered:
            sizes = tuple(extent for extent, _ in ordered)
            value = value if shape == sizes else reshaped(value, sizes)
            value = relax.op.permute_dims(value, [ordered.index(atom) for atom in atoms])
            shape = tuple(extent for extent, _ in atoms)
        return value if shape == self.shape else reshaped(value, self.shape)


def _row_major(shape: Sequence[int]) -> list[Atom]:
    return [(extent, math.prod(shape[i + 1 :])) for i, extent in enumerate(shape)]


def _compact(view: View) -> tuple[relax.Expr, tuple[int, ...], list[Atom]] | None:
    """Return the part of the base that the view covers, its shape, and the atoms in that part.

    The part is the base or a range of its last axis, and has each of its elements in the view once.
    """
    shape, atoms = extents_of(view.base), view.atoms
    if not shape:
        return None
    channels, width = shape[-1], 1
    for extent, stride in sorted(atoms, key=lambda atom: in_general(atom[1])):
        width *= extent if stride == width else 1
    part = view.base
    if width != math.prod(shape):
        width = math.gcd(width, channels)
        begin, end = view.offset, view.offset + width
        crosses_rows = any(s % channels if s >= channels else e * s > width for e, s in atoms)
        if end > channels or crosses_rows:
            return None
        part = relax.op.strided_slice(part, [len(shape) - 1], [begin], [end])
        shape = (*shape[:-1], width)
        atoms = [(e, s if s < channels else s // channels * width) for e, s in atoms]
    covered = 1
    for extent, stride in sorted(atoms, key=lambda atom: in_general(atom[1])):
        if stride != covered:
            return None
        covered *= extent
    return (part, shape, atoms) if covered == math.prod(shape) else None

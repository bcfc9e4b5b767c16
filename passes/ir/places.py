"""Integers that count: tensors whose elements are the places at which something is gathered.

Exporters gather a mask at ``sequence * i + j``, or at the pairs ``(i, j)``. Such integers are a
`View` of the numbers from 0 on: each axis adds a step of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to, uniform_value
from tvm_sparse.passes.ir.rewriting import Lookup
from tvm_sparse.passes.ir.shapes import extents_of, lifted
from tvm_sparse.passes.ir.view_chains import RESHAPING
from tvm_sparse.passes.ir.views import Atom, View


def broadcast_view(view: View | None, shape: Sequence[int]) -> View | None:
    """Return a view that repeats along new axes and those of extent 1, or None if it does not."""
    if view is None or len(view.axes) > len(shape):
        return None
    missing = len(shape) - len(view.axes)
    axes: list[tuple[Atom, ...]] = []
    known = zip((*[()] * missing, *view.axes), (*[1] * missing, *view.shape), strict=True)
    for (axis, size), extent in zip(known, shape, strict=True):
        if size == extent:
            axes.append(axis)
        elif size == 1:
            axes.append(((extent, 0),))
        else:
            return None
    return replace(view, axes=tuple(axes))


def same(a: View | None, b: View | None) -> bool:
    """Whether two views show the same elements."""
    if a is None or b is None:
        return False
    return a.base.same_as(b.base) and (a.axes, a.offset) == (b.axes, b.offset)


class Places:
    """Reads integers that count.

    Parameters
    ----------
    lookup : callable
        Returns the expression that a variable is bound to.
    """

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup

    def gathered(self, view: View, call: relax.Call) -> View | None:
        """Return the elements of a view that a call of take or gather_nd takes, as a view."""
        if is_call_to(call, "relax.take"):
            if call.attrs.axis is None:
                return None
            axis = int(call.attrs.axis) % len(view.axes)
            return _taken(view, [axis], [self.read(call.args[1])])
        if int(call.attrs.batch_dims) != 0:
            return None
        index = self.lookup(call.args[1])
        rank, last = len(view.axes), len(extents_of(call.args[1]) or ()) - 1
        if not is_call_to(index, "relax.concat") or int(index.attrs["axis"]) not in (-1, last):
            return None
        parts = self.lookup(index.args[0])
        fields = list(parts.fields) if isinstance(parts, relax.Tuple) else []
        places = [self.read(field) for field in fields]
        if len(places) != rank or any(p is None or p.axes[-1] != () for p in places):
            return None
        inner = [None if p is None else replace(p, axes=p.axes[:-1]) for p in places]
        return _taken(view, list(range(rank)), inner)

    def read(self, value: relax.Expr) -> View | None:
        """Return integers as a view of the numbers from 0 on; None if they are something else."""
        if isinstance(value, tvm.ir.GenericConst):
            return _counted(value)
        call, shape = self.lookup(value), extents_of(value)
        if not isinstance(call, relax.Call) or shape is None:
            return None
        if is_call_to(call, "relax.arange"):
            begin, step = (uniform_or_int(call.args[i]) for i in (0, 2))
            return View(value, (((shape[0], 1),),)) if (begin, step) == (0, 1) else None
        if is_call_to(call, "relax.astype"):
            return self.read(call.args[0])
        if is_call_to(call, *RESHAPING):
            source = self.read(call.args[0])
            return None if source is None else source.reshape(shape)
        if is_call_to(call, "relax.broadcast_to"):
            return broadcast_view(self.read(call.args[0]), shape)
        if is_call_to(call, "relax.add"):
            a, b = (broadcast_view(self.read(arg), shape) for arg in call.args)
            return None if a is None or b is None else _sum(a, b)
        if is_call_to(call, "relax.multiply"):
            for source, number in (call.args, call.args[::-1]):
                factor, counted = self._size(number), self.read(source)
                if factor is not None and counted is not None:
                    return broadcast_view(_scaled(counted, factor), shape)
        return None

    def _size(self, value: relax.Expr) -> int | None:
        """Return the only number of a tensor: a constant, or a size."""
        number = uniform_value(value)
        if number is not None:
            return int(number)
        call = self.lookup(value)
        if is_call_to(call, "relax.astype", *RESHAPING):
            return self._size(call.args[0])
        if not is_call_to(call, "relax.shape_to_tensor"):
            return None
        sizes = self.lookup(call.args[0])
        is_one = isinstance(sizes, relax.ShapeExpr) and len(sizes.values) == 1
        return lifted(sizes.values[0]) if is_one else None


def uniform_or_int(value: Any) -> float | None:
    """Return an argument that is a number."""
    if isinstance(value, tvm.tirx.IntImm):
        return int(value)
    return uniform_value(value)


def _taken(view: View, axes: Sequence[int], places: Sequence[View | None]) -> View | None:
    """Return the elements of a view at places along axes, whose own axes come instead."""
    total: View | None = None
    for axis, place in zip(axes, places, strict=True):
        atoms = view.axes[axis]
        if place is None or len(atoms) > 1:
            return None
        scaled = _scaled(place, atoms[0][1] if atoms else 0)
        total = scaled if total is None else _sum(total, scaled)
    if total is None:
        return None
    around = (*view.axes[: axes[0]], *total.axes, *view.axes[axes[-1] + 1 :])
    return replace(view, axes=around, offset=view.offset + total.offset)


def _scaled(view: View, factor: int) -> View:
    axes = tuple(tuple((n, step * factor) for n, step in axis) for axis in view.axes)
    return replace(view, axes=axes, offset=view.offset * factor)


def _sum(a: View, b: View) -> View | None:
    """Return the sums of two views of numbers of one shape."""
    if len(a.axes) != len(b.axes):
        return None
    axes: list[tuple[Atom, ...]] = []
    for one, other in zip(a.axes, b.axes, strict=True):
        if [n for n, _ in one] != [n for n, _ in other]:
            return None
        axes.append(tuple((n, s + t) for (n, s), (_, t) in zip(one, other, strict=True)))
    return replace(a, axes=tuple(axes), offset=a.offset + b.offset)


def _counted(value: tvm.ir.GenericConst) -> View | None:
    array = value.value.numpy()
    if array.dtype.kind not in "iu" or array.size == 0:
        return None
    origin, axes = int(array.flat[0]), []
    wanted = np.full(array.shape, origin)
    for axis, n in enumerate(array.shape):
        step = int(array.take(1, axis).flat[0]) - origin if n > 1 else 0
        axes.append(((n, step),) if n > 1 else ())
        places = [-1 if a == axis else 1 for a in range(array.ndim)]
        wanted = wanted + (np.arange(n) * step).reshape(places)
    return View(value, tuple(axes), origin) if np.array_equal(wanted, array) else None

"""The scale and the zero point of dynamic quantization: those of all values of a tensor and 0.

    scale = (max(x, 0) - min(x, 0)) / 255, or 1 if that is 0
    zero point = round(-min(x, 0) / scale), from 0 to 255

The loops::

    for part of the values:                 # in parallel
        least, most = 0, 0                  # in registers
        for vectors of the part:
            least, most = min(least, x), max(most, x)
    combine the parts
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import PARALLEL_ELEMENTS
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.schedules.emit.buffers import (
    Registers,
    argument,
    converted,
    filled,
    flat,
    opaque,
    scratch,
    vector,
    whole,
)
from tvm_sparse.schedules.emit.lanes import across_lanes
from tvm_sparse.schedules.emit.run_time_words import steps_of_range
from tvm_sparse.schedules.emit.sizes import declare, factor, named, size
from tvm_sparse.sizes.extent import Extent

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

CHAINS = 4
"""Vectors that are compared side by side, since a comparison takes some cycles."""


@dataclass(frozen=True)
class Valid:
    """Which lanes of panels hold values of the tensor.

    Attributes
    ----------
    period : int
        Rows of panels that hold a sequence, one block of tokens after another.
    extent : int
        Tokens of a sequence, or pixels of a row.
    """

    period: int
    extent: int


def dynamic_range(
    shape: Sequence[int], valid: Valid | None, cpu: CpuProfile, dtype: DType = ACTIVATIONS
) -> tvm.tirx.PrimFunc:
    """Build the function that finds the numbers to round a tensor to.

    Parameters
    ----------
    shape : sequence of int
        The shape of the tensor, or of its panels ``[rows, channels, lanes]``.
    valid : Valid, optional
        Which lanes of panels count; by default, all values do.
    cpu : CpuProfile
        Gives the length of vectors and the number of cores.
    dtype : DType
        The type of the values.

    Returns
    -------
    PrimFunc
        ``(x, steps [2])``, the steps being the scale and the zero point.
    """
    if valid is not None and not isinstance(valid.extent, Extent):
        rest = valid.extent % shape[2]
        valid = None if rest == 0 else valid
    sizes = (*shape, *((valid.period, valid.extent) if valid else ()))
    elements = math.prod(shape)
    is_large = isinstance(elements, Extent) or elements >= PARALLEL_ELEMENTS
    parts = cpu.cores if is_large else 1
    with (
        named(sizes) as variables,
        IRBuilder() as builder,
        T.prim_func(s_tir=True, private=True),
    ):
        T.func_name("dynamic_range")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        extents = [size(n) for n in shape]
        x = argument("x", *extents, dtype=dtype)
        declare(variables)
        y = argument("steps", 2)
        found = scratch(2 * parts)
        loop = T.parallel if parts > 1 else T.serial
        with loop(T.int64(0), T.int64(parts)) as job, T.sblock("ranges"):
            part = T.axis.spatial(T.int64(parts), job)
            T.reads(whole(x, extents))
            T.writes(found[2 * part : 2 * part + 2])
            width = cpu.vector_lanes(dtype)
            ends = _Range(dtype, math.gcd(width, shape[2]) if valid else width)
            if valid is None:
                _each_value(x, extents, ends, opaque(part), parts)
            else:
                _each_row(x, shape, valid, ends, opaque(part), parts)
            T.buffer_store(found, across_lanes(ends.least(), T.min), [2 * part])
            T.buffer_store(found, across_lanes(ends.most(), T.max), [2 * part + 1])
        with T.sblock("steps"):
            T.reads(found[0 : 2 * parts])
            T.writes(whole(y, (2,)))
            _steps(y, *(_over(found, parts, i, f) for i, f in enumerate((T.min, T.max))))
    return builder.get()


class _Range:
    """The least and the largest values so far, in vectors."""

    def __init__(self, dtype: DType, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        self._ends = [Registers(CHAINS, self.lanes, dtype) for _ in range(2)]
        for chain in range(CHAINS):
            for ends in self._ends:
                ends[chain] = filled(0, self.lanes, dtype)

    def add(self, chain: int, value: Expr) -> None:
        """Take a vector in, by one of the chains."""
        held = T.bind(value)
        for ends, choose in zip(self._ends, (T.min, T.max), strict=True):
            ends[chain] = choose(ends[chain], held)

    def least(self) -> Expr:
        """Return a float32 vector of the least values."""
        return self._of_all(0, T.min)

    def most(self) -> Expr:
        """Return a float32 vector of the largest values."""
        return self._of_all(1, T.max)

    def _of_all(self, end: int, choose: Callable[[Expr, Expr], Expr]) -> Expr:
        value = self._ends[end][0]
        for chain in range(1, CHAINS):
            value = choose(value, self._ends[end][chain])
        return converted(T.bind(value), ACTIVATIONS)


def _each_value(x: Expr, extents: list[Any], ends: _Range, part: Expr, parts: int) -> None:
    """Take in the values of a part of a tensor."""
    count: Any = math.prod(extents[1:], start=extents[0]) if extents else T.int64(1)
    values = flat(x[tuple(T.int64(0) for _ in extents)], count, ends.dtype)
    lanes = ends.lanes
    step = CHAINS * lanes
    share = opaque((count + (step * parts - 1)) // (step * parts) * step)
    first = opaque(T.min(part * share, count))
    end = opaque(T.min(first + share, count))
    with T.serial(T.int64(0), (end - first) // step) as i:
        at = T.bind(first + i * step)
        for chain in range(CHAINS):
            ends.add(chain, values[vector(at + chain * lanes, lanes)])
    done = opaque(first + (end - first) // step * step)
    with T.serial(T.int64(0), (end - done) // lanes) as i:
        ends.add(0, values[vector(done + i * lanes, lanes)])
    done = opaque(done + (end - done) // lanes * lanes)
    with T.serial(T.int64(0), end - done) as i:
        ends.add(0, T.Broadcast(values[done + i], lanes))


def _each_row(
    x: Expr, shape: Sequence[int], valid: Valid, ends: _Range, part: Expr, parts: int
) -> None:
    """Take in the lanes of a part of the rows of panels that hold values."""
    rows, channels, lanes = shape
    width = ends.lanes
    share = opaque((size(rows) + (parts - 1)) // parts)
    first = opaque(T.min(part * share, size(rows)))
    end = opaque(T.min(first + share, size(rows)))
    zeros = filled(0, ends.lanes, ends.dtype)
    with T.serial(T.int64(0), end - first) as at:
        row = T.bind(first + at)
        inside = opaque(factor(valid.extent) - row % factor(valid.period) * lanes)
        with T.serial(T.int64(0), T.int64(channels)) as channel:
            for i, lane in enumerate(range(0, lanes, width)):
                held = x[row, channel, vector(T.int64(lane), width)]
                numbers = T.Ramp(T.int32(lane), T.int32(1), width)
                limit = T.Broadcast(T.Cast("int32", inside), width)
                ends.add(i % CHAINS, T.Select(numbers < limit, held, zeros))


def _over(found: Expr, parts: int, end: int, choose: Callable[[Expr, Expr], Expr]) -> Expr:
    """Return an end of the range of all parts."""
    value = found[T.int64(end)]
    for part in range(1, parts):
        value = choose(value, found[T.int64(2 * part + end)])
    return T.bind(value)


def _steps(y: Expr, least: Expr, most: Expr) -> None:
    """Store the scale and the zero point of a range."""
    for i, value in enumerate(steps_of_range(least, most)):
        T.buffer_store(y, value, [T.int64(i)])

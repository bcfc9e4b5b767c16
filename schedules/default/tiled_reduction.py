"""Loop nests for reductions, from products of matrices and convolutions to means and maxima.

A sum of products, ``out[m, n] = sum_k a[m, k] * b[k, n]`` with any index expressions in `a` and
`b`, is computed in register tiles. The vectors run along n, the last axis of the output. First, `b`
is brought into the order in which the tile reads it, so that one kernel serves convolutions and
products, transposed or not::

    for a tile of n in parallel:
        packed[k, :] = b[k, n...]
        for a tile of m:
            accumulators = sum over k of a[m, k] * packed[k, :]

Any other reduction has accumulators along the last axis of the output or, if its input is
contiguous along a reduced axis, along that axis; these accumulators are combined at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.dtypes import bytes_of
from tvm_sparse.schedules.default.nests import clipped, each_job
from tvm_sparse.schedules.default.reduction import (
    Axis,
    Reduction,
    loads,
    places,
    size,
    substitute,
    variables,
)
from tvm_sparse.schedules.emit.buffers import Registers
from tvm_sparse.schedules.emit.buffers import vector as vector_at
from tvm_sparse.schedules.emit.tiles import each_tile, tile_height

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

    from tvm_sparse.cpu.profile import CpuProfile

WORTH_PACKING = 4
"""Fewest rows of a product for which packing the other operand saves more time than it takes."""
WIDE, NARROW = 8, 2
"""Most vectors of a tile of few rows, and of a tile whose rows are enough to fill the registers."""


def tile_reduction(reduction: Reduction, cpu: CpuProfile) -> Stmt | None:
    """Return a loop nest that computes a reduction.

    Returns
    -------
    Stmt or None
        None if vectors would run along an axis of the output whose extent is not known.
    """
    if not reduction.spatial or _runs_along_reduced(reduction):
        return _reduce_along_row(reduction, cpu)
    if not reduction.spatial[-1].is_known:
        return None
    return _Tiling(reduction, cpu).emit()


def _runs_along_reduced(reduction: Reduction) -> bool:
    """Whether vectors along the last reduced axis fit the term better than along the output."""
    scalar, vector = reduction.factors()
    rows = [a for a in reduction.spatial if scalar is not None and a.var not in variables(vector)]
    if scalar is not None and _is_worth_packing(rows):
        return False
    spatial, reduced = reduction.spatial[-1].var, reduction.reduced[-1].var
    indexed = [load for load in loads(vector) if load.indices]  # a scalar has no axes
    inputs = [(variables(load), variables(load.indices[-1])) for load in indexed]
    # If an input varies along both axes it decides, because it is the larger input.
    deciding = [last for used, last in inputs if {spatial, reduced} <= used.keys()]
    last = deciding or [last for _, last in inputs]
    return any(reduced in used for used in last) and not any(spatial in used for used in last)


def _is_worth_packing(rows: list[Axis]) -> bool:
    count = size(rows)
    return not isinstance(count, int) or count >= WORTH_PACKING


class _Tiling:
    """A register tile of rows, along the axes m, by vectors along the axes n of the output."""

    def __init__(self, reduction: Reduction, cpu: CpuProfile) -> None:
        self.reduction = reduction
        self.scalar, self.vector = reduction.factors()
        uses = variables(self.vector)
        *others, last = reduction.spatial
        rows = [a for a in others if self.scalar is not None and a.var not in uses]
        if not all(a.is_known for a in (*rows, *reduction.reduced)):
            rows = []  # then each of them is a job: a tile of rows needs their number
        n_axes = [last]
        only_vector = () if self.scalar is None else variables(self.scalar)
        width = cpu.vector_lanes(reduction.dtype)
        packs = size(rows) >= WORTH_PACKING
        # A short last axis is joined with axes before it, to fill the vectors.
        while packs and others and last.extent < width:
            if others[-1] in rows or others[-1].var in only_vector:
                break
            n_axes.insert(0, others.pop())
        self.m_axes, self.n_axes = rows, n_axes
        self.outer = [a for a in others if a not in rows]

        n, m = size(n_axes), size(rows)
        self.lanes = min(width, n)
        vectors = -(-n // self.lanes)
        jobs = size(self.outer)
        wide = min(WIDE, max(jobs * vectors // (2 * cpu.cores), 1)) if _known(jobs) else WIDE
        vectors = min(NARROW if packs else wide, vectors)
        self.tile_n = min(n, vectors * self.lanes)
        # The last vector of a tile, like the last tile, overlaps the one before it.
        self.offsets = [min(o, self.tile_n - self.lanes) for o in range(0, self.tile_n, self.lanes)]
        self.tiles = -(-n // self.tile_n)
        self.tile_m = tile_height(len(self.offsets), cpu)
        jobs = size(self.outer) * self.tiles
        needed = max(2 * cpu.cores // jobs, 1) if _known(jobs) else 1
        parts = min(needed, -(-m // self.tile_m))
        self.part_m = -(-m // parts)
        self.parts = -(-m // self.part_m)
        packed_bytes = bytes_of(reduction.dtype) * size(reduction.reduced) * self.tile_n
        self.packs = packs and packed_bytes <= cpu.l2_bytes

    def emit(self) -> Stmt:
        reduction = self.reduction
        n, m = size(self.n_axes), size(self.m_axes)
        jobs = size(self.outer) * self.tiles * self.parts
        with IRBuilder() as builder, _jobs(jobs, reduction) as job:
            part, tile = job % self.parts, job // self.parts % self.tiles
            self.fixed = places(self.outer, job // (self.parts * self.tiles))
            self.first_n = T.bind(clipped(tile * self.tile_n, n - self.tile_n))
            self.temporary = [
                T.sblock_alloc_buffer((self.lanes,), reduction.dtype) for _ in self.offsets
            ]
            self.acc = Registers(self.tile_m * len(self.offsets), self.lanes, reduction.dtype)
            first = T.bind(clipped(part * self.part_m, m - self.part_m))
            if self.packs:
                depth = size(reduction.reduced)
                shape = (T.int64(depth * self.tile_n),)
                self.packed = T.sblock_alloc_buffer(shape, reduction.dtype)
                self._pack()
            each_tile(self.part_m, self.tile_m, lambda i, c: self._tile(first + i, c))
        return builder.get()

    def _pack(self) -> None:
        contiguous = len(self.n_axes) == 1
        if contiguous:
            with _loops(self.reduction.reduced) as (place, step):
                for offset in self.offsets:
                    with T.vectorized(T.int64(self.lanes)) as lane:
                        self._pack_value(place, step, offset + lane)
        else:
            # Where axes are joined, their indices are computed once for a position along n.
            positions = T.serial(T.int64(0), T.int64(self.tile_n))
            with positions as position, _loops(self.reduction.reduced) as (place, step):
                self._pack_value(place, step, position)

    def _pack_value(self, place: dict[Var, Expr], step: Expr, position: Expr) -> None:
        value = substitute(self.vector, place | self._n_at(position) | self.fixed)
        T.buffer_store(self.packed, value, [step * self.tile_n + position])

    def _n_at(self, position: Expr) -> dict[Var, Expr]:
        return places(self.n_axes, self.first_n + position)

    def _tile(self, first: Expr, count: int) -> None:
        """Compute `count` rows of a tile."""
        reduction, vectors = self.reduction, len(self.offsets)
        rows = (
            [places(self.m_axes, T.bind(first + i)) for i in range(count)] if self.m_axes else [{}]
        )
        for i in range(count * vectors):
            self.acc[i] = T.Broadcast(reduction.init, self.lanes)
        with _loops(reduction.reduced) as (place, step):
            sources = [T.bind(self._source(v, place, step)) for v in range(vectors)]
            for i, row in enumerate(rows):
                if self.scalar is not None:
                    scalar = substitute(self.scalar, place | row | self.fixed)
                    factor = T.bind(T.Broadcast(T.bind(scalar), self.lanes))
                for v, source in enumerate(sources):
                    term = source if self.scalar is None else factor * source
                    a = i * vectors + v
                    self.acc[a] = reduction.combine(self.acc[a], term)
        for i, row in enumerate(rows):
            for v, offset in enumerate(self.offsets):
                values = self.temporary[v]
                T.buffer_store(values, self.acc[i * vectors + v], [vector_at(0, self.lanes)])
                with T.vectorized(T.int64(self.lanes)) as lane:
                    place = row | self._n_at(offset + lane) | self.fixed
                    indices = [substitute(index, place) for index in reduction.store.indices]
                    T.buffer_store(reduction.store.buffer, values[lane], indices)

    def _source(self, v: int, place: dict[Var, Expr], step: Expr) -> Expr:
        if self.packs:
            start = step * self.tile_n + self.offsets[v]
            return self.packed[vector_at(start, self.lanes)]
        with T.vectorized(T.int64(self.lanes)) as lane:
            position = self._n_at(self.offsets[v] + lane)
            value = substitute(self.vector, place | position | self.fixed)
            T.buffer_store(self.temporary[v], value, [lane])
        return self.temporary[v][vector_at(0, self.lanes)]


def _reduce_along_row(reduction: Reduction, cpu: CpuProfile) -> Stmt:
    """Accumulators along the last reduced axis; every job computes one element of the output."""
    *others, last = reduction.reduced
    width = cpu.vector_lanes(reduction.dtype)
    lanes = min(width, last.extent) if last.is_known else width
    chains = min(4, last.extent // lanes) if last.is_known else 4
    with IRBuilder() as builder, _jobs(size(reduction.spatial), reduction) as job:
        fixed = places(reduction.spatial, job)
        temporary = T.sblock_alloc_buffer((lanes,), reduction.dtype)
        total = T.sblock_alloc_buffer((1,), reduction.dtype)
        acc = Registers(chains, lanes, reduction.dtype)
        for i in range(chains):
            acc[i] = T.Broadcast(reduction.init, lanes)
        T.buffer_store(total, reduction.init, [0])

        def add_vectors(start: Expr, count: int, place: dict[Var, Expr]) -> None:
            for i in range(count):
                with T.vectorized(T.int64(lanes)) as lane:
                    at = {last.var: start + (i * lanes + lane)}
                    term = substitute(reduction.term, place | at | fixed)
                    T.buffer_store(temporary, term, [lane])
                acc[i] = reduction.combine(acc[i], temporary[vector_at(0, lanes)])

        step = chains * lanes
        whole = last.extent // step * step
        rest = (last.extent - whole) // lanes
        with _loops(others) as (place, _):
            with T.serial(T.int64(0), _int64(whole // step)) as group:
                add_vectors(group * step, chains, place)
            if last.is_known:
                add_vectors(T.int64(whole), rest, place)
            else:
                with T.serial(T.int64(0), rest) as i:
                    add_vectors(whole + i * lanes, 1, place)
            with T.serial(_int64(whole + rest * lanes), _int64(last.extent)) as i:
                term = substitute(reduction.term, place | {last.var: i} | fixed)
                T.buffer_store(total, reduction.combine(total[0], term), [0])
        combined = acc[0]
        for i in range(1, chains):
            combined = reduction.combine(combined, acc[i])
        T.buffer_store(temporary, combined, [vector_at(0, lanes)])
        with T.serial(T.int64(0), T.int64(lanes)) as lane:
            T.buffer_store(total, reduction.combine(total[0], temporary[lane]), [0])
        indices = [substitute(index, fixed) for index in reduction.store.indices]
        T.buffer_store(reduction.store.buffer, total[0], indices)
    return builder.get()


def _known(count: int | Expr) -> bool:
    return isinstance(count, int)


def _int64(count: int | Expr) -> Expr:
    return T.int64(count) if isinstance(count, int) else count


def _jobs(count: int | Expr, reduction: Reduction) -> contextlib.AbstractContextManager[Expr]:
    name, out = reduction.name + "_tiled", reduction.store.buffer
    return each_job(count, reduction.iterations, name, reduction.term, out)


@contextlib.contextmanager
def _loops(axes: list[Axis] | tuple[Axis, ...]) -> Iterator[tuple[dict[Var, Expr], Expr]]:
    """Open a loop for each axis; returns their places and the number of the iteration."""
    with contextlib.ExitStack() as stack:
        place: dict[Var, Expr] = {}
        step: Expr = T.int64(0)
        for axis in axes:
            i = stack.enter_context(T.serial(T.int64(0), _int64(axis.extent)))
            place[axis.var] = i
            step = step * axis.extent + i
        yield place, step

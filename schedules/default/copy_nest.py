"""Loop nests that compute a piece of an elementwise block, parallel and in vectors.

Where an input is contiguous along another axis than the output, tiles are read along the input's
axis, transposed in registers, and written along the output's. A last vector or tile that would not
be whole overlaps the one before it, unless the values may be computed in place.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.default.nests import clipped, each_job
from tvm_sparse.schedules.default.pieces import Piece, elements
from tvm_sparse.schedules.default.reduction import Axis, loads, places, size, substitute, variables
from tvm_sparse.schedules.emit.buffers import vector as vector_at
from tvm_sparse.schedules.emit.transpose import transpose

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

    from tvm_sparse.cpu.profile import CpuProfile

JOBS_PER_CORE = 4
"""Rows for each core below which rows are cut into their vectors, to give all cores work."""

SMALLEST_TILE = 4
"""Shortest side of a tile that is transposed in registers."""


def copy_nest(piece: Piece, name: str, cpu: CpuProfile, scratch: Collection[Expr] = ()) -> Stmt:
    """Return a loop nest for a piece of the block `name`.

    Parameters
    ----------
    piece : Piece
        The elements to compute.
    name : str
        The name of the new block.
    cpu : CpuProfile
        The processor to compile for.
    scratch : collection of Buffer
        The buffers that the function allocates. TVM may give two of them one place, where the
        values of one are computed from those of the other.
    """
    return _Copy(piece, name, cpu, scratch).emit()


class _Copy:
    """Emits the loops of one piece."""

    def __init__(self, piece: Piece, name: str, cpu: CpuProfile, scratch: Collection[Expr]) -> None:
        self.piece, self.name, self.cpu = piece, name, cpu
        self.is_in_place = piece.store.buffer in scratch and any(
            load.source in scratch for load in loads(piece.store.value)
        )
        """Whether an input may lie where the output lies, so that no value is computed twice."""

    def emit(self) -> Stmt:
        """Return the loops."""
        axes = self.piece.axes
        along = axes[-1] if axes and self._is_stored_along(axes[-1]) else None
        across = None if along is None else self._axis_read_along(along)
        with IRBuilder() as builder:
            if along is None:
                self._vectors(None, 1)
            elif across is None or self._lanes(along) > self._lanes(across):
                self._vectors(along, self._lanes(along))
            elif self._lanes(along) < SMALLEST_TILE:
                self._vectors(across, self._lanes(across))
            else:
                self._tiles(along, across, self._lanes(along))
        return builder.get()

    def _lanes(self, axis: Axis) -> int:
        """Return how many values of an axis make a vector."""
        return min(self.cpu.vector_lanes(), 1 << axis.extent.bit_length() - 1)

    def _is_stored_along(self, axis: Axis) -> bool:
        *others, last = self.piece.store.indices
        return _is_contiguous(last, axis) and not any(axis.var in variables(i) for i in others)

    def _axis_read_along(self, stored: Axis) -> Axis | None:
        """Return the axis along which a load is contiguous that `stored` would stride through."""
        for load in loads(self.piece.store.value):
            if any(stored.var in variables(index) for index in load.indices[:-1]):
                for axis in self.piece.axes[:-1]:
                    if _is_contiguous(load.indices[-1], axis):
                        return axis
        return None

    def _vectors(self, axis: Axis | None, lanes: int) -> None:
        """Compute vectors along an axis, or single values."""
        outer = [a for a in self.piece.axes if a is not axis]
        extent = 1 if axis is None else axis.extent
        rest = extent % lanes if self.is_in_place else 0
        steps = extent // lanes if rest else -(-extent // lanes)
        # A single vector is too short for a job, but few rows are too few jobs.
        joined = size(outer) >= JOBS_PER_CORE * self.cpu.cores or rest > 0
        jobs = size(outer) * (1 if joined else steps)
        with each_job(jobs, *self._work()) as job:
            place = _bound(places(outer, job if joined else job // steps))

            def vector(first: Expr, lanes: int) -> None:
                if axis is None:
                    self._store(place)
                    return
                with T.vectorized(T.int64(lanes)) as lane:
                    self._store(place | {axis.var: first + lane})

            def visit(step: Expr) -> None:
                vector(T.bind(clipped(step * lanes, extent - lanes)), lanes)

            if joined:
                with T.serial(T.int64(0), T.int64(steps)) as step:
                    visit(step)
                if rest:
                    vector(T.int64(extent - rest), rest)
            else:
                visit(job % steps)

    def _tiles(self, along: Axis, across: Axis, lanes: int) -> None:
        """Compute square tiles, read along one axis and written along the other.

        If there are enough jobs, a job reads the rows of a whole row of tiles from end to end.
        """
        outer = [a for a in self.piece.axes if a is not along and a is not across]
        strips = -(-across.extent // lanes)
        joined = size(outer) >= JOBS_PER_CORE * self.cpu.cores
        with each_job(size(outer) * (1 if joined else strips), *self._work()) as job:
            fixed = _bound(places(outer, job if joined else job // strips))
            dtype = self.piece.store.buffer.dtype
            rows = [T.sblock_alloc_buffer((lanes,), dtype) for _ in range(lanes)]
            with T.serial(T.int64(0), T.int64(-(-along.extent // lanes))) as tile:
                first = T.bind(clipped(tile * lanes, along.extent - lanes))

                def visit(strip: Expr) -> None:
                    start = T.bind(clipped(strip * lanes, across.extent - lanes))
                    self._tile((along, first), (across, start), rows, fixed)

                if joined:
                    with T.serial(T.int64(0), T.int64(strips)) as strip:
                        visit(strip)
                else:
                    visit(job % strips)

    def _tile(
        self,
        along: tuple[Axis, Expr],
        across: tuple[Axis, Expr],
        rows: list[Expr],
        fixed: dict[Var, Expr],
    ) -> None:
        """Compute the tile that begins at the given places of two axes."""
        store, lanes = self.piece.store, len(rows)
        for i, row in enumerate(rows):
            with T.vectorized(T.int64(lanes)) as lane:
                place = fixed | {along[0].var: along[1] + i, across[0].var: across[1] + lane}
                T.buffer_store(row, substitute(store.value, place), [lane])
        loaded = [T.bind(row[vector_at(0, lanes)]) for row in rows]
        for i, values in enumerate(transpose(loaded)):
            place = fixed | {along[0].var: along[1], across[0].var: across[1] + i}
            *indices, last = [substitute(index, place) for index in store.indices]
            T.buffer_store(store.buffer, values, [*indices, vector_at(last, lanes)])

    def _store(self, place: dict[Var, Expr]) -> None:
        store = self.piece.store
        indices = [substitute(index, place) for index in store.indices]
        T.buffer_store(store.buffer, substitute(store.value, place), indices)

    def _work(self) -> tuple[int, str, Expr, Expr]:
        store = self.piece.store
        return elements(self.piece), self.name, store.value, store.buffer


def _bound(place: dict[Var, Expr]) -> dict[Var, Expr]:
    return {var: T.bind(value) for var, value in place.items()}


def _is_contiguous(index: Expr, axis: Axis) -> bool:
    """Whether an index grows by 1 from each element of an axis to the next."""
    if axis.var not in variables(index):
        return False
    linear = tvm.sym.detect_linear_equation(index, [axis.var])
    return bool(linear) and isinstance(linear[0], tirx.IntImm) and int(linear[0]) == 1

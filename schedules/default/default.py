"""Default schedule of functions that have no kernel of their own.

Elementwise blocks are inlined into their consumers where that repeats no expensive work. The
remaining blocks become vectorized, and parallel if they have enough work: reductions by
`tiled_reduction`, elementwise blocks here. Blocks that cannot be analysed keep their loops.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.dlight.analysis import normalize_prim_func
from tvm_ffi import structural_equal, structural_map, structural_walk

from tvm_sparse.cpu.rates import PARALLEL_ITERATIONS, line_elements
from tvm_sparse.dtypes import DType
from tvm_sparse.schedules.default.copy_nest import copy_nest
from tvm_sparse.schedules.default.pieces import cut
from tvm_sparse.schedules.default.reduction import (
    BLIND_TO_NAN,
    Reduction,
    loads,
    variables,
)
from tvm_sparse.schedules.default.special_values import keep_nan_in_reductions
from tvm_sparse.schedules.default.tiled_reduction import tile_reduction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tvm.s_tir.schedule import LoopRV, SBlockRV

    from tvm_sparse.cpu.profile import CpuProfile

TILE = line_elements(DType.FLOAT32)
"""Values on a side of the tiles of a transpose."""
MOST_LOADS = 64
"""Loads in all copies of an expression that is inlined where it is read more than once. Otherwise
a chain such as ``x + x`` would double with each operator."""
CHUNKS_PER_CORE = 4
"""Parts, for each core, into which a parallel loop is cut."""


def default_schedule(func: tirx.PrimFunc, cpu: CpuProfile) -> tirx.PrimFunc:
    """Return `func` with parallel and vectorized loops, or unchanged if it cannot be analysed."""
    schedule = s_tir.Schedule(func)
    if normalize_prim_func(schedule) is None:
        return func
    _inline(schedule)
    scratch = set(schedule.get(schedule.get_sblock("root")).alloc_buffers)
    nests: dict[str, tirx.Stmt] = {}
    plain: list[str] = []
    for block in _blocks(schedule):
        reduction = Reduction.of(schedule.get(block))
        if reduction is not None:
            nest = tile_reduction(reduction, cpu)
            if nest is not None:
                nests[reduction.name] = nest
                continue
        name = schedule.get(block).name_hint
        if not name.startswith(BLIND_TO_NAN):
            plain.append(name)
        pieces = cut(schedule.get(block))
        if pieces is not None:
            nests[name] = tirx.stmt_seq(
                *(
                    copy_nest(piece, f"{name}_piece{i}", cpu, scratch)
                    for i, piece in enumerate(pieces)
                )
            )
        else:
            kept = schedule.copy() if _iterations(schedule, block) is None else schedule
            try:
                _schedule_loops(schedule, block, cpu)
            except s_tir.ScheduleError:
                continue  # Every primitive leaves the function correct.
            except tvm.error.InternalError:
                if kept is schedule:
                    raise
                schedule = kept  # TVM cannot simplify some indices with unknown extents.
                if _is_injective(schedule, block):
                    schedule.parallel(schedule.get_loops(block)[0])
    return keep_nan_in_reductions(_with_nests(schedule.mod["main"], nests), plain)


def _blocks(schedule: s_tir.Schedule) -> list[SBlockRV]:
    return list(schedule.get_child_blocks(schedule.get_sblock("root")))


def _inline(schedule: s_tir.Schedule) -> None:
    """Inline the elementwise blocks, unless that would repeat or nest function calls.

    The expression of a function of a function is so large that TVM's passes take minutes for it.
    """
    for block in _blocks(schedule):
        consumers = schedule.get_consumers(block)
        if not consumers or not _is_injective(schedule, block):
            continue
        own = _iterations(schedule, block)
        once = own is not None and [_iterations(schedule, c) for c in consumers] == [own]
        cheap = not _is_costly(schedule.get(block).body)
        if not cheap and any(_is_costly(schedule.get(c).body) for c in consumers):
            continue
        if _copied_loads(schedule, block, consumers) > MOST_LOADS:
            continue
        if once or (cheap and all(_is_injective(schedule, c) for c in consumers)):
            try:
                schedule.compute_inline(block)
            except s_tir.ScheduleError:
                continue  # The block computes a result of the function.


def _copied_loads(schedule: s_tir.Schedule, block: SBlockRV, consumers: Sequence[SBlockRV]) -> int:
    """Return the loads in the copies of a block that one consumer gets; 0 if it gets one copy."""
    (result, *_) = schedule.get(block).writes
    readers = (loads(schedule.get(consumer).body) for consumer in consumers)
    copies = max(sum(load.source.same_as(result.source) for load in found) for found in readers)
    return copies * len(loads(schedule.get(block).body)) if copies > 1 else 0


def _is_costly(body: tirx.Stmt) -> bool:
    """Whether a block does more than arithmetic: calls, or the code that replaced calls."""
    costly: list[tvm.ir.Expr] = []
    structural_walk(body, (tirx.Let, costly.append))
    structural_walk(
        body,
        (tvm.ir.Call, lambda c: None if _is_cheap(c) else costly.append(c)),
    )
    return bool(costly)


def _is_cheap(call: tvm.ir.Call) -> bool:
    """Whether a call is a condition, or a maximum or minimum that keeps NaN."""
    return "if_then_else" in str(call.op) or "call_llvm_pure_intrin" in str(call.op)


def _is_injective(schedule: s_tir.Schedule, block: SBlockRV) -> bool:
    kinds = {int(axis.iter_type) for axis in schedule.get(block).iter_vars}
    return kinds <= {tirx.IterVar.DataPar}


def _iterations(schedule: s_tir.Schedule, block: SBlockRV) -> int | None:
    extents = [schedule.get(loop).extent for loop in schedule.get_loops(block)]
    if all(isinstance(e, tirx.IntImm) for e in extents):
        return math.prod(int(e) for e in extents)
    return None


def _schedule_loops(schedule: s_tir.Schedule, block: SBlockRV, cpu: CpuProfile) -> None:
    """Make the leading spatial loops of a block parallel and its contiguous ones vectors."""
    loops = list(schedule.get_loops(block))
    kinds = [int(axis.iter_type) for axis in schedule.get(block).iter_vars]
    spatial = next((i for i, k in enumerate(kinds) if k != tirx.IterVar.DataPar), len(kinds))
    iterations = _iterations(schedule, block)
    enough = iterations is None or iterations >= PARALLEL_ITERATIONS
    outer, inner = loops[:spatial], None
    if not spatial:
        return
    is_known = functools.partial(_is_known, schedule)
    across = _axis_read_contiguously(schedule.get(block))
    if across is not None and spatial == len(loops):
        outer = _tile(schedule, loops, across)
    elif spatial == len(loops):
        joined = _contiguous_axes(schedule.get(block))
        known = 1 + sum(1 for _ in itertools.takewhile(is_known, reversed(loops[:-1])))
        joined = min(joined, known if is_known(loops[-1]) else 1)
        rows_are_vectors = _extent(schedule, loops[-1]) % cpu.vector_lanes() == 0
        outer, inner = loops[:-joined], _fused(schedule, loops[-joined:], iterations is None)
        # The indices of a vector that goes on in the next row would not be contiguous to TVM. LLVM
        # makes the vectors of such loops.
        if rows_are_vectors:
            inner, lanes = schedule.split(inner, factors=[None, cpu.vector_lanes()])
            schedule.vectorize(lanes)
    if enough and inner is not None and not outer and not is_known(inner):
        # Whatever the number is, each core gets some equal parts.
        outer.append(schedule.split(inner, factors=[CHUNKS_PER_CORE * cpu.cores, None])[0])
    elif enough and inner is not None:
        jobs = math.prod(_extent(schedule, loop) for loop in outer)
        parts = _divisor(_extent(schedule, inner), -(-CHUNKS_PER_CORE * cpu.cores // jobs))
        if parts > 1:
            outer.append(schedule.split(inner, factors=[parts, None])[0])
    if enough and outer:
        schedule.parallel(_fused(schedule, outer, iterations is None))


def _tile(schedule: s_tir.Schedule, loops: list[LoopRV], across: int) -> list[LoopRV]:
    """Tile loop `across` and the last one; returns the loops over tiles."""
    tiles = [_divisor_at_most(_extent(schedule, loops[i]), TILE) for i in (across, -1)]
    (slow, in_slow), (fast, in_fast) = (
        schedule.split(loops[i], factors=[None, tile])
        for i, tile in zip((across, -1), tiles, strict=True)
    )
    outer = [*loops[:across], slow, *loops[across + 1 : -1], fast]
    schedule.reorder(*outer, in_slow, in_fast)
    schedule.vectorize(in_fast)
    return outer


def _extent(schedule: s_tir.Schedule, loop: LoopRV) -> int:
    """Return the extent of a loop, or 1 if it is not constant, so that the loop is not split."""
    extent = schedule.get(loop).extent
    return int(extent) if isinstance(extent, tirx.IntImm) else 1


def _fused(schedule: s_tir.Schedule, loops: list[LoopRV], is_sized: bool) -> LoopRV:
    """Return one loop in place of several, where `is_sized` says whether extents are unknown."""
    if len(loops) == 1 and is_sized:
        return loops[0]  # TVM would simplify indices again, and fails at some divisions
    return schedule.fuse(*loops)


def _is_known(schedule: s_tir.Schedule, loop: LoopRV) -> bool:
    return isinstance(schedule.get(loop).extent, tirx.IntImm)


def _divisor(n: int, least: int) -> int:
    """Return the smallest divisor of `n` that is at least `least`, or else `n` itself."""
    return next((d for d in range(min(least, n), n) if n % d == 0), n)


def _divisor_at_most(n: int, most: int) -> int:
    return next(d for d in range(min(n, most), 0, -1) if n % d == 0)


def _axis_read_contiguously(block: s_tir.SBlock) -> int | None:
    """Return the axis along which an input is contiguous, if the output transposes that input."""
    *axes, last = [axis.var for axis in block.iter_vars]
    transposed = [
        load.indices[-1]
        for load in loads(block.body)
        if any(last in variables(index) for index in load.indices[:-1])
    ]
    return next((i for i, var in enumerate(axes) if any(var.same_as(x) for x in transposed)), None)


def _contiguous_axes(block: s_tir.SBlock) -> int:
    """Return how many of the last axes can be one loop without divisions in any index.

    Every access must either use neither of two neighbouring axes, or be contiguous across them.
    """
    accesses = [(load.source, load.indices) for load in loads(block.body)]
    structural_walk(
        block.body, (tirx.BufferStore, lambda store: accesses.append((store.buffer, store.indices)))
    )
    uses = variables(block.body)
    axes = [axis.var for axis in block.iter_vars]
    count = 1
    for a, b in zip(reversed(axes[:-1]), reversed(axes[1:]), strict=True):
        plain = 0
        for buffer, indices in accesses:
            used = [i for i, index in enumerate(indices) if {a, b} & variables(index).keys()]
            if not used:
                continue
            if len(used) != 2 or used[1] != used[0] + 1:
                return count
            first, second = (indices[i] for i in used)
            extent = next(axis.dom.extent for axis in block.iter_vars if axis.var.same_as(b))
            whole = structural_equal(buffer.shape[used[1]], extent)
            if not (first.same_as(a) and second.same_as(b) and whole):
                return count
            plain += 1
        if uses[a] != plain or uses[b] != plain:
            return count
        count += 1
    return count


def _with_nests(func: tirx.PrimFunc, nests: dict[str, tirx.Stmt]) -> tirx.PrimFunc:
    """Replace the loops around blocks by other loop nests, given by the name of the block."""

    def replace(loop: tirx.For) -> tirx.Stmt:
        body = loop
        while isinstance(body, tirx.For):
            body = body.body
        if not isinstance(body, s_tir.SBlockRealize):
            return loop
        return nests.get(body.block.name_hint, loop)

    return func.with_body(structural_map(func.body, (tirx.For, replace), order="pre"))

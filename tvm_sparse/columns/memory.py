"""The scratch memory in which the stages of a region keep their rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from tvm_sparse.columns.heights import all_columns
from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.rows import (
    RowArithmetic,
    Span,
    column_bounds,
    first_unowned_row,
    frontier,
    halo_steps,
    rows_needed,
    runs,
)
from tvm_sparse.columns.shapes import RegionShape, StageShape
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.tensor import RowMap


@dataclass(frozen=True)
class StageMemory:
    """The memory of a stage inside a column, and the runs that fill it.

    Attributes
    ----------
    run_rows : frozenset of int
        The numbers of rows that runs of the stage have.
    capacity : int
        Rows of the result that scratch memory holds; 0 if the result goes to an output only.
    is_split : bool
        Whether a tile may begin at the end of the scratch memory and continue at its beginning,
        where row r of a column has place ``r % capacity``.
    is_stored : bool
        Whether the result goes to an output of the region.
    is_carried : bool
        Whether a step reads rows of the result that a step before it computed.
    """

    run_rows: frozenset[int]
    capacity: int
    is_split: bool
    is_stored: bool
    is_carried: bool


def stage_memory(region: RegionShape, plan: ColumnPlan) -> tuple[StageMemory, ...]:
    """Return the memory of every stage, which is enough for every height that is possible.

    An output of the region that some of its stages read goes to scratch memory as well, if two
    columns compute one of its rows: neither may see a row while the other column stores it.
    """
    span, rows = all_columns(region, plan)
    bounds = column_bounds(region, span, rows)
    used = [_Used() for _ in region.stages]
    for step, run in enumerate(runs(region, plan, span, rows), -halo_steps(region, plan)):
        begin = rows.max(span[0], frontier(plan, span, step, rows)[0])
        for i, (first, end) in enumerate(run):
            is_run = first < end
            oldest = first
            for reader, seen in region.consumers[i]:
                low, high = run[reader]
                oldest = rows.choose(
                    low < high, rows.min(oldest, rows.max(seen.first(low), 0)), oldest
                )
            if i in region.outputs:
                oldest = rows.min(oldest, first_unowned_row(region, i, begin, rows))
            used[i].run_rows.update(np.unique((end - first)[is_run]).tolist())
            used[i].kept = max(used[i].kept, int((end - oldest).max()))
            used[i].is_carried |= bool((oldest < first).any())
            for source in {i, *_read_in_place(region.stages[i])}:
                origin = bounds[source][0]
                pairs = np.stack([first - origin, end - origin], axis=1)[is_run]
                used[source].runs[i].update(map(tuple, np.unique(pairs, axis=0).tolist()))
    overlapping = _overlapping(region, span, bounds, rows)
    memory = []
    for i, readers in enumerate(region.consumers):
        own, is_stored = used[i], i in region.outputs
        needs_scratch = bool(readers) and (overlapping[i] or not is_stored)
        capacity, is_split = own.kept if needs_scratch else 0, False
        if needs_scratch and own.is_carried and is_less(capacity, region.stages[i].tensor.rows):
            tiles = {
                tile
                for user, found in own.runs.items()
                for first, end in found
                for tile in region.stages[user].tiles.cut(first, end)
            }
            capacity, is_split = _capacity(capacity, tiles)
        lengths = frozenset(own.run_rows)
        memory.append(StageMemory(lengths, capacity, is_split, is_stored, own.is_carried))
    return tuple(memory)


@dataclass
class _Used:
    """What the runs of all columns need of the memory of a stage.

    Attributes
    ----------
    run_rows : set of int
        The rows of runs of the stage.
    kept : int
        The most rows that are there at a time.
    is_carried : bool
        Whether rows are kept from step to step.
    runs : mapping of int to set of (int, int)
        The runs of the stages that write or read the memory tile by tile: the rows
        ``[first, end)``, counted from the first one in the column.
    """

    run_rows: set[int] = field(default_factory=set)
    kept: int = 0
    is_carried: bool = False
    runs: dict[int, set[tuple[int, int]]] = field(default_factory=lambda: defaultdict(set))


def _overlapping(
    region: RegionShape, span: Span, bounds: Sequence[Span], rows: RowArithmetic
) -> list[bool]:
    """Return for every stage whether a column and the one before it compute the same row."""
    start, is_first = span[0], span[0] == 0
    before = rows_needed(region, start - 1, start, rows)
    return [
        bool((~is_first & (low < high)).any())
        for (low, _), (_, high) in zip(bounds, before, strict=True)
    ]


def is_less(capacity: int, rows: int) -> bool:
    """Return whether fewer rows than a tensor has fit into memory, for some height at least."""
    return isinstance(rows, Extent) or capacity < rows


def _read_in_place(stage: StageShape) -> list[int]:
    """Return the numbers of the stages whose rows a stage reads tile by tile."""
    return [edge.source for edge in stage.edges if edge.source >= 0 and edge.rows == RowMap()]


def _capacity(kept: int, tiles: Collection[tuple[int, int]]) -> tuple[int, bool]:
    """Return the rows of a rolling buffer, and whether it splits tiles.

    The buffer gets a few more rows than the `kept` ones if it then splits no tile.
    """
    longest = max(count for _, count in tiles)
    for capacity in range(kept, kept + longest):
        if all(first % capacity + count <= capacity for first, count in tiles):
            return capacity, False
    return kept, True


def scratch_bytes(region: RegionShape, memory: Sequence[StageMemory]) -> int:
    """Return the bytes of a column's scratch memory for results."""
    return sum(
        m.capacity * stage.tensor.row_bytes for stage, m in zip(region.stages, memory, strict=True)
    )

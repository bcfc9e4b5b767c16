"""The scratch memory in which the stages of a region keep their rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.rows import column_bounds, first_unowned_row, frontier, halo_steps, runs
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
    """Return the memory of every stage.

    An output of the region that some of its stages read goes to scratch memory as well, if two
    columns compute one of its rows: neither may see a row while the other column stores it.
    """
    count = len(region.stages)
    run_rows: list[set[int]] = [set() for _ in range(count)]
    tiles: list[set[tuple[int, int]]] = [set() for _ in range(count)]
    kept = [0] * count
    overlapping, carried = [False] * count, [False] * count
    last_end = [0] * count
    for known, column in ((k, c) for k in _heights(region, plan) for c in range(plan.columns(k))):
        begin = column * plan.column_rows
        bounds = column_bounds(known, plan, column)
        for step, run in enumerate(runs(known, plan, column), -halo_steps(known, plan)):
            begin = max(begin, frontier(known, plan, column, step)[0])
            for i, (first, end) in enumerate(run):
                run_rows[i].add(end - first)
                for source in {i, *_read_in_place(known.stages[i])}:
                    origin = bounds[source][0]
                    own = known.stages[i].tiles.cut(first - origin, end - origin)
                    tiles[source].update(own)
                if column and first < last_end[i]:
                    overlapping[i] = True
                oldest = [
                    max(seen.first(run[reader][0]), 0)
                    for reader, seen in known.consumers[i]
                    if run[reader][0] < run[reader][1]
                ]
                if i in known.outputs:
                    oldest.append(first_unowned_row(known, i, begin))
                kept[i] = max(kept[i], end - min([first, *oldest]))
                carried[i] = carried[i] or min([first, *oldest]) < first
        last_end = [end for _, end in run]
    memory = []
    for i, readers in enumerate(region.consumers):
        is_stored = i in region.outputs
        needs_scratch = bool(readers) and (overlapping[i] or not is_stored)
        capacity, is_split = kept[i] if needs_scratch else 0, False
        if needs_scratch and carried[i] and is_less(capacity, region.stages[i].tensor.rows):
            capacity, is_split = _capacity(capacity, tiles[i])
        lengths = frozenset(run_rows[i] - {0})
        memory.append(StageMemory(lengths, capacity, is_split, is_stored, carried[i]))
    return tuple(memory)


def is_less(capacity: int, rows: int) -> bool:
    """Return whether fewer rows than a tensor has fit into memory, for some height at least."""
    return isinstance(rows, Extent) or capacity < rows


def _heights(region: RegionShape, plan: ColumnPlan) -> Iterator[RegionShape]:
    """Yield the region with every number of rows whose columns have runs of other lengths.

    Where the rows are an extent, each output row sees the input row of its number. So all whole
    columns are alike, and two columns show what a last column of any length does.
    """
    if not isinstance(region.height, Extent):
        yield region.planned
        return
    seen = {edge.rows for stage in region.stages for edge in stage.edges} - {None}
    if seen - {RowMap()}:
        raise ValueError("the rows of windows must be known when the region is compiled")
    for rows in range(1, 2 * plan.column_rows + 1):
        yield region.of_height(rows)


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

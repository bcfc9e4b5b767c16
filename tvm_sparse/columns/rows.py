"""Which rows every stage of a region computes, column by column and step by step.

A region is a chain (or a graph without cycles) of stages, each of which computes rows from rows of
others. Its last stage is cut into columns of rows, a column into steps. In every step each stage
computes what its consumers ask for:

* ``recompute``: all rows that the step needs, also those that the step before had.
* ``carry``: only the rows that are new; those still needed are kept in a rolling buffer. Rows are
  computed twice only where two columns meet. A halo of more than a step takes steps of its own, so
  that no run is much longer, and no buffer much larger, than in the other steps.

A stage computes its rows in tiles, counted from its first row in the column; carried ones in whole
tiles, ahead of what the step needs. So columns may have any number of rows.

The functions work on integers, for the cost model, and on expressions, for the schedule: the loops
that run are the ones that were counted.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Overlap = Literal["recompute", "carry"]
Row = Any
"""A row number: an int or an expression of one."""

ALIKE = 4
"""Columns, or steps, between the first and the last one that are counted for all of these."""


@dataclass(frozen=True)
class RowMap:
    """Input rows that an output row sees: from ``row * stride // factor - before`` on.

    Attributes
    ----------
    stride : int
        Input rows from one output row to the next.
    before, after : int
        The rows seen are ``[at - before, at + after)``.
    factor : int
        Output rows that share an input row, of a layer that enlarges.
    """

    stride: int = 1
    before: int = 0
    after: int = 1
    factor: int = 1

    def first(self, row: Row) -> Row:
        """Return the first row that an output row sees; it may be negative."""
        return self._at(row) - self.before

    def end(self, end: Row) -> Row:
        """Return where the rows end that the output rows before `end` see."""
        return self._at(end - 1) + self.after

    def _at(self, row: Row) -> Row:
        scaled = row * self.stride if self.stride > 1 else row
        return scaled // self.factor if self.factor > 1 else scaled


@dataclass(frozen=True)
class Tensor:
    """Panels ``[images * rows, channels, lanes]``.

    Attributes
    ----------
    images, rows, channels, lanes : int
        Rows are those of one image.
    """

    images: int
    rows: int
    channels: int
    lanes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return 4 * self.channels * self.lanes

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return self.images * self.rows * self.row_bytes


@dataclass(frozen=True)
class Edge:
    """Where an operand of a stage comes from.

    Attributes
    ----------
    source : int
        Number of the stage that computes it, or ``-1 - i`` for input `i` of the region.
    rows : RowMap, optional
        What of it is seen; None if every row sees all rows. Only inputs of the region can be.
    """

    source: int
    rows: RowMap | None


@dataclass(frozen=True)
class StageShape:
    """What the planning needs to know of a stage.

    Attributes
    ----------
    name : str
        Its operator.
    tensor : Tensor
        What it computes.
    edges : tuple of Edge
        What it reads.
    tile : int
        Rows that it computes together, from its first row in a column on.
    cycles : float
        Compute cycles of all rows of all images, from data in the nearest cache, summed over cores.
    weight_bytes : int
        Constants that every run reads.
    key : str
        Shapes, attributes and density, for the tuning records.
    window_bytes : int
        Memory that a run gathers its inputs into, for each of its rows.
    row_parts, most_tile_rows : int
        As `tvm_sparse.schedules.stage.Stage`'s.
    """

    name: str
    tensor: Tensor
    edges: tuple[Edge, ...]
    tile: int = 1
    cycles: float = 0.0
    weight_bytes: int = 0
    key: str = ""
    window_bytes: int = 0
    row_parts: int = 0
    most_tile_rows: int = 1

    def tiles(self, first: int, end: int) -> list[tuple[int, int]]:
        """Return the first row of every tile of a run of rows, and how many it has."""
        whole, rest = divmod(end - first, self.tile)
        sizes = [self.tile] * whole + [rest] * (rest > 0)
        if rest and whole and self.tile + rest <= self.most_tile_rows:
            sizes[-2:] = [self.tile + rest]
        return [(end - sum(sizes[i:]), size) for i, size in enumerate(sizes)]


@dataclass(frozen=True)
class RegionShape:
    """Stages in an order in which they can run; the last one is cut into columns.

    Attributes
    ----------
    stages : tuple of StageShape
        All have the same number of images.
    inputs : tuple of Tensor
        What stages read from outside.
    outputs : tuple of int
        Stages whose result is used outside, the last one among them.
    """

    stages: tuple[StageShape, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[int, ...]

    @property
    def images(self) -> int:
        """Images of the batch."""
        return self.stages[-1].tensor.images

    @property
    def height(self) -> int:
        """Rows of the last stage, the unit of columns and steps."""
        return self.stages[-1].tensor.rows

    @functools.cached_property
    def consumers(self) -> tuple[tuple[tuple[int, RowMap], ...], ...]:
        """For every stage, the stages that read it and the rows they see."""
        found: list[list[tuple[int, RowMap]]] = [[] for _ in self.stages]
        for reader, stage in enumerate(self.stages):
            for edge in stage.edges:
                if edge.source >= 0:
                    if edge.rows is None:
                        raise ValueError(f"{stage.name} reads all rows of a stage of its region")
                    found[edge.source].append((reader, edge.rows))
        return tuple(map(tuple, found))


@dataclass(frozen=True)
class ColumnPlan:
    """How a region is cut.

    Attributes
    ----------
    column_rows : int
        Rows of the last stage in a column; the last column of an image may have fewer.
    step_rows : int
        Rows of the last stage in a step.
    overlap : str
        ``"recompute"`` or ``"carry"``: what happens to rows that the next step needs again.
    """

    column_rows: int
    step_rows: int
    overlap: Overlap = "carry"

    def columns(self, region: RegionShape) -> int:
        """Return the columns of one image."""
        return -(-region.height // self.column_rows)

    def steps(self) -> int:
        """Return the steps of a whole column."""
        return -(-self.column_rows // self.step_rows)

    def fitted(self, region: RegionShape) -> ColumnPlan:
        """Return the plan with columns of at most an image, and steps of at most a column."""
        column = min(self.column_rows, region.height)
        return ColumnPlan(column, min(self.step_rows, column), self.overlap)


@dataclass(frozen=True)
class Stops:
    """Cache stops inside of what could be one region, in place of a plan for the whole.

    Attributes
    ----------
    before : tuple of int
        Numbers of the stages before which all rows are written.
    """

    before: tuple[int, ...]

    def parts(self, stages: int) -> list[tuple[int, int]]:
        """Return the first stage of every part of so many stages, and the first one behind it."""
        return list(itertools.pairwise((0, *self.before, stages)))


@dataclass(frozen=True)
class Measured:
    """What was measured to be the best for a region.

    Attributes
    ----------
    plan : ColumnPlan or Stops
        The plan, or that the region is better in parts.
    share : float
        Its time, as a share of that of the operators one by one.
    """

    plan: ColumnPlan | Stops
    share: float


@dataclass(frozen=True)
class Minimum:
    """Minimum and maximum of rows: Python's for integers, another's for expressions."""

    min: Callable[[Row, Row], Row] = min
    max: Callable[[Row, Row], Row] = max


INTEGERS = Minimum()


def round_up(n: Row, unit: int) -> Row:
    """Return the least multiple of `unit` that is not below `n`."""
    return n if unit == 1 else (n + (unit - 1)) // unit * unit


def part(region: RegionShape, first: int, end: int) -> RegionShape:
    """Return the stages ``[first, end)`` of a region as a region."""
    inputs: dict[int, int] = {}
    stages = []
    for stage in region.stages[first:end]:
        edges = []
        for edge in stage.edges:
            source = edge.source - first
            if edge.source < first:
                source = -1 - inputs.setdefault(edge.source, len(inputs))
            edges.append(Edge(source, edge.rows))
        stages.append(replace(stage, edges=tuple(edges)))
    tensors = [region.stages[i].tensor if i >= 0 else region.inputs[-1 - i] for i in inputs]
    outputs = tuple(
        i - first
        for i in range(first, end)
        if i in region.outputs or any(reader >= end for reader, _ in region.consumers[i])
    )
    return RegionShape(tuple(stages), tuple(tensors), outputs)


@functools.cache
def halo_steps(region: RegionShape, plan: ColumnPlan) -> int:
    """Return the steps in front of a column's first rows: the whole ones that its halo fills."""
    if plan.overlap == "recompute" or plan.steps() == 1:
        return 0
    # Of a column with a halo on both sides, if there is one.
    column = min(1, plan.columns(region) - 1)
    bounds = column_bounds(region, plan, column)
    steps, end = 0, column * plan.column_rows - plan.step_rows
    while any(
        high > first
        for (first, _), (_, high) in zip(bounds, rows_needed(region, end - 1, end), strict=True)
    ):
        steps, end = steps + 1, end - plan.step_rows
    return steps


def column_bounds(
    region: RegionShape, plan: ColumnPlan, column: Row, of: Minimum = INTEGERS
) -> list[tuple[Row, Row]]:
    """Return the rows ``[first, end)`` of every stage in a column."""
    start = column * plan.column_rows
    return rows_needed(region, start, of.min(start + plan.column_rows, region.height), of)


def frontier(
    region: RegionShape, plan: ColumnPlan, column: Row, step: Row, of: Minimum = INTEGERS
) -> tuple[Row, Row]:
    """Return the rows ``[first, end)`` of the last stage that a step of a column computes.

    Those of step ``-i``, of the halo, lie in front of the column: up to there the rows are needed.
    """
    start = column * plan.column_rows
    last = of.min(start + plan.column_rows, region.height)
    first = of.min(start + step * plan.step_rows, last)
    return first, of.min(first + plan.step_rows, last)


def own_row(region: RegionShape, stage: int, row: Row, of: Minimum = INTEGERS) -> Row:
    """Return up to where an output of the region is complete when the last stage is up to `row`.

    The rows in between belong to one column only, which stores them.
    """
    shape, height = region.stages[stage], region.height
    scaled = row
    if shape.tensor.rows != height:
        scaled = (row * shape.tensor.rows + (height - 1)) // height
    return of.min(scaled, shape.tensor.rows)


def rows_needed(
    region: RegionShape,
    first: Row,
    end: Row,
    of: Minimum = INTEGERS,
    bounds: Sequence[tuple[Row, Row]] | None = None,
) -> list[tuple[Row, Row]]:
    """Return the rows ``[first, end)`` of every stage behind some rows of the last one.

    Parameters
    ----------
    region : RegionShape
        The stages.
    first, end : Row
        Rows of the last one.
    of : Minimum
        How rows are compared.
    bounds : sequence of (Row, Row), optional
        The rows of every stage in a column: with them, stages compute whole tiles ahead.
    """
    needed: list[tuple[Row, Row]] = [(0, 0)] * len(region.stages)
    for i in reversed(range(len(region.stages))):
        stage = region.stages[i]
        height, tile = stage.tensor.rows, stage.tile
        wanted = [
            (of.max(seen.first(needed[reader][0]), 0), of.min(seen.end(needed[reader][1]), height))
            for reader, seen in region.consumers[i]
        ]
        if i in region.outputs:
            wanted.append((own_row(region, i, first, of), own_row(region, i, end, of)))
        low = functools.reduce(of.min, (low for low, _ in wanted))
        high = functools.reduce(of.max, (high for _, high in wanted))
        if bounds and tile > 1:
            begin, last = bounds[i]
            high = of.min(begin + round_up(high - begin, tile), last)
        needed[i] = low, high
    return needed


def runs(region: RegionShape, plan: ColumnPlan, column: int) -> list[list[tuple[int, int]]]:
    """Return the rows ``[first, end)`` that each stage computes, for every step of a column."""
    result = []
    bounds = column_bounds(region, plan, column)
    done = [first for first, _ in bounds]
    for step in range(-halo_steps(region, plan), plan.steps()):
        first, end = frontier(region, plan, column, step)
        if first == end:
            break
        if plan.overlap == "recompute":
            needed = rows_needed(region, first, end)
        else:
            ahead = rows_needed(region, first, end, bounds=bounds)
            needed = [(d, max(d, high)) for d, (_, high) in zip(done, ahead, strict=True)]
        result.append(needed)
        done = [high for _, high in needed]
    return result


def typical_columns(region: RegionShape, plan: ColumnPlan) -> list[tuple[int, int]]:
    """Return columns that stand for all of an image, and for how many each stands."""
    columns = plan.columns(region)
    if columns <= ALIKE + 2:
        return [(column, 1) for column in range(columns)]
    # Those between the first and the last are alike, but rows before a stride differ by one.
    count, more = divmod(columns - 2, ALIKE)
    middle = [(columns // 2 - ALIKE // 2 + i, count + (i < more)) for i in range(ALIKE)]
    return [(0, 1), *middle, (columns - 1, 1)]


def rows_computed(region: RegionShape, plan: ColumnPlan) -> list[int]:
    """Return the rows that each stage computes in one image; its height, without overlap."""
    total = [0] * len(region.stages)
    for column in range(plan.columns(region)):
        for step in runs(region, plan, column):
            for i, (first, end) in enumerate(step):
                total[i] += end - first
    return total


def halo_share(region: RegionShape, plan: ColumnPlan) -> float:
    """Return the compute cycles of rows that are computed again, as a share of all without."""
    once = sum(stage.cycles for stage in region.stages)
    computed = rows_computed(region, plan)
    spent = sum(
        stage.cycles * rows / stage.tensor.rows
        for stage, rows in zip(region.stages, computed, strict=True)
    )
    return spent / once - 1 if once else 0.0


@dataclass(frozen=True)
class StageMemory:
    """What a stage needs inside a column.

    Attributes
    ----------
    run_rows : frozenset of int
        How many rows its runs have.
    capacity : int
        Rows of its result that are kept in scratch memory; 0 if it is stored outside only.
    is_split : bool
        Whether a tile may lie at the end and the beginning of it, if row r of a column has place
        ``r % capacity``.
    is_stored : bool
        Whether its result is also, or only, stored outside.
    is_carried : bool
        Whether a step reads rows of it that a step before computed.
    """

    run_rows: frozenset[int]
    capacity: int
    is_split: bool
    is_stored: bool
    is_carried: bool


def stage_memory(region: RegionShape, plan: ColumnPlan) -> tuple[StageMemory, ...]:
    """Return the memory of every stage.

    An output of the region that stages of it read goes to scratch memory as well if two columns
    compute a row of it: one must not see what the other is storing.
    """
    count = len(region.stages)
    run_rows: list[set[int]] = [set() for _ in range(count)]
    tiles: list[set[tuple[int, int]]] = [set() for _ in range(count)]
    kept = [0] * count
    overlapping, carried = [False] * count, [False] * count
    last_end = [0] * count
    for column in range(plan.columns(region)):
        begin = column * plan.column_rows
        bounds = column_bounds(region, plan, column)
        for step, run in enumerate(runs(region, plan, column), -halo_steps(region, plan)):
            begin = max(begin, frontier(region, plan, column, step)[0])
            for i, (first, end) in enumerate(run):
                run_rows[i].add(end - first)
                for source in {i, *_read_in_place(region.stages[i])}:
                    origin = bounds[source][0]
                    own = region.stages[i].tiles(first - origin, end - origin)
                    tiles[source].update(own)
                if column and first < last_end[i]:
                    overlapping[i] = True
                oldest = [
                    max(seen.first(run[reader][0]), 0)
                    for reader, seen in region.consumers[i]
                    if run[reader][0] < run[reader][1]
                ]
                if i in region.outputs:
                    oldest.append(own_row(region, i, begin))
                kept[i] = max(kept[i], end - min([first, *oldest]))
                carried[i] = carried[i] or min([first, *oldest]) < first
        last_end = [end for _, end in run]
    memory = []
    for i, readers in enumerate(region.consumers):
        is_stored = i in region.outputs
        needs_scratch = bool(readers) and (overlapping[i] or not is_stored)
        capacity, is_split = kept[i] if needs_scratch else 0, False
        if needs_scratch and carried[i] and capacity < region.stages[i].tensor.rows:
            capacity, is_split = _capacity(capacity, tiles[i])
        lengths = frozenset(run_rows[i] - {0})
        memory.append(StageMemory(lengths, capacity, is_split, is_stored, carried[i]))
    return tuple(memory)


def _read_in_place(stage: StageShape) -> list[int]:
    """Return the stages whose rows a stage reads tile by tile."""
    return [edge.source for edge in stage.edges if edge.source >= 0 and edge.rows == RowMap()]


def _capacity(kept: int, tiles: Collection[tuple[int, int]]) -> tuple[int, bool]:
    """Return rows of a rolling buffer, perhaps a few more so that it splits no tile."""
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

"""What a region costs under a plan, for any CPU profile.

In every step of a column each stage runs once. A run costs compute cycles, and the traffic of what
it reads and writes. How far away these bytes are follows from what the core has touched since it
used them last: the rows that the stage before has just written are near, the weights were last read
a step ago, an input of the region when the region before wrote it. A single operator is a region of
one stage, so that fused and unfused execution are compared by the same measure.

Nothing here touches the CPU.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.rows import ALIKE, rows_needed, typical_columns
from tvm_sparse.columns.shapes import RegionShape, StageShape
from tvm_sparse.costs.traffic import Caches, Distance, Traffic, caches
from tvm_sparse.cpu.memory_system import LEVELS
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import LAUNCH_SECONDS
from tvm_sparse.sizes.tensor import RowMap, Tensor

RUN_CYCLES = 150.0
"""To start a run of a stage: bounds of its rows, pointers, the first turns of its loops."""

ROWS_PER_TILE = 2.0
"""What a tile costs besides its rows, in rows: a sparse layer loads weight and position for it, a
depthwise one the window's other rows."""

EXPOSED_SHARE = 0.3
"""Share of the time to read weights that computing does not hide: with it, the regions of eight
sequences in BERT end where measured times say that they should, before the weights of a step push
one another out of L2."""

READ_TENSORS, WRITE_TENSORS = 2, 4
"""Between the write and the read of a row of a region's input the rest of the tensor is touched,
and about as much again: its maker reads while it writes, and its reader writes while it reads. The
memory of an output was last used by another tensor, before both of them."""

COSTS = 3 + 2 * len(LEVELS)
"""Numbers that a column costs, see `_Column.cost`."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """What a region is expected to cost.

    Attributes
    ----------
    seconds : float
        Time of the region.
    compute_seconds, traffic_seconds : float
        Of the busiest core, each as if the other took no time. They add up, except that most of
        the weights are read while it computes.
    bytes_moved, weights_moved : tuple of float
        What all cores read and write in L1, L2, L3 and memory; and of it, the weights.
    scratch_bytes : int
        Rows of intermediate results that a core keeps.
    working_set_bytes : int
        What a core touches in a step: rows, weights, and the region's inputs and outputs.
    halo_share : float
        Compute cycles of rows that are computed again, as a share of all without.
    columns : int
        Columns of all images.
    """

    seconds: float
    compute_seconds: float
    traffic_seconds: float
    bytes_moved: tuple[float, ...]
    weights_moved: tuple[float, ...]
    scratch_bytes: int
    working_set_bytes: int
    halo_share: float
    columns: int


def predict(region: RegionShape, plan: ColumnPlan, cpu: CpuProfile) -> Prediction:
    """Return what `region` costs when its columns share the cores.

    Parameters
    ----------
    region : RegionShape
        Stages with their compute cycles.
    plan : ColumnPlan
        Columns and steps.
    cpu : CpuProfile
        All of its cores take part.
    """
    columns = region.images * plan.columns(region)
    share = -(-columns // cpu.cores)  # of a thread; the last ones may have less
    kinds = [
        (_Column(region, plan, column, caches(cpu)), count)
        for column, count in typical_columns(region, plan)
    ]
    clock_hz = cpu.memory_system.clock_hz
    costs = [(column.cost(clock_hz, cold=1 / share), count) for column, count in kinds]
    starts = [*range(0, columns, share), columns]
    work = np.diff([_first_columns(costs, start) for start in starts], axis=0)
    busiest = max(work, key=lambda cost: cost[0])
    return _prediction(
        busiest,
        work.sum(axis=0),
        scratch_bytes=scratch_bytes(region, plan),
        working_set_bytes=round(max(column.step_bytes for column, _ in kinds)),
        halo_share=_halo_share(region, kinds),
        columns=columns,
    )


def predict_alone(region: RegionShape, cpu: CpuProfile) -> Prediction:
    """Return what a region of one stage costs as a kernel of its own.

    Such kernels cut channels, too, where the rows are too few: cores get equal shares. But as those
    before and after them mostly cut rows, rows are then handed from core to core.
    """
    (stage,) = region.stages
    height = stage.tensor.rows
    image = _Column(region, ColumnPlan(height, height), 0, caches(cpu))
    cold = min(cpu.cores / region.images, 1.0)
    work = region.images * image.cost(cpu.memory_system.clock_hz, cold)
    work += _exchange(region, cpu)
    return _prediction(
        work / cpu.cores,
        work,
        scratch_bytes=0,
        working_set_bytes=round(image.step_bytes / cpu.cores),
        halo_share=0.0,
        columns=max(region.images, cpu.cores),
    )


def _exchange(region: RegionShape, cpu: CpuProfile) -> Vector:
    """Return what it costs that a kernel which cuts channels takes rows from other cores.

    It reads and writes where they have last written and read; and so do those behind it where it
    has. Of one core, or where all share the last cache before memory, nothing.
    """
    (stage,) = region.stages
    near, far = Traffic(caches(cpu)), Traffic(caches(cpu))
    own = min(stage.row_parts / cpu.cores, 1.0) if stage.row_parts else 1.0
    if own < 1 and cpu.l3_bytes:
        inputs = [region.inputs[-1 - edge.source] for edge in stage.edges if edge.rows is not None]
        for tensor in (*inputs, stage.tensor):
            count, read, write = (n * tensor.bytes for n in (1 - own, READ_TENSORS, WRITE_TENSORS))
            near.read(count, _outside(read, cpu.cores))
            near.write(count, _outside(write, cpu.cores))
            far.read(count, Distance(math.inf, read))
            far.write(count, Distance(math.inf, write))
    seconds = far.seconds - near.seconds
    moved = np.subtract(far.moved, near.moved)
    return np.array([seconds, 0.0, seconds, *moved, *np.zeros(len(LEVELS))])


def scratch_bytes(region: RegionShape, plan: ColumnPlan) -> int:
    """Return about the bytes of intermediate results that a core keeps: rows of a middle step."""
    start = plan.columns(region) // 2 * plan.column_rows
    start += plan.steps() // 2 * plan.step_rows
    end = min(start + plan.step_rows, region.height)
    needed = rows_needed(region, min(start, end - 1), end)
    oldest = [low for low, _ in needed]
    if plan.overlap == "carry" and plan.steps() > 1:
        done = [high for _, high in rows_needed(region, start - plan.step_rows, start)]
        oldest = [
            min([row, *(seen.first(done[reader]) for reader, seen in readers)])
            for row, readers in zip(done, region.consumers, strict=True)
        ]
    return sum(
        min(high - max(low, 0) + stage.tile - 1, stage.tensor.rows) * stage.tensor.row_bytes
        for i, (stage, low, (_, high)) in enumerate(zip(region.stages, oldest, needed, strict=True))
        if i not in region.outputs
    )


class _Column:
    """The work of one column, all of whose steps are taken to be alike.

    Attributes
    ----------
    steps : int
        How many.
    rows : list of float
        Rows that each stage computes in a step.
    step_bytes : float
        What a step touches.
    """

    def __init__(self, region: RegionShape, plan: ColumnPlan, column: int, caches: Caches) -> None:
        self._region, self._caches = region, caches
        start = column * plan.column_rows
        end = min(start + plan.column_rows, region.height)
        self.steps = -(-(end - start) // plan.step_rows)
        computed = _rows_computed(region, plan, start, end)
        self.rows = [rows / self.steps for rows in computed]
        # Of carried rows all tiles of a column are whole, but for the last one.
        last = 1 - (self.steps - 1) * plan.step_rows / (end - start)
        is_carried = plan.overlap == "carry"
        self._row_costs = [
            _row_cost(stage, rows, last * rows)
            for stage, rows in zip(
                region.stages, computed if is_carried else self.rows, strict=True
            )
        ]
        # Of the stages that read an input of the region, the first one brings its rows near.
        self._first_readers: dict[int, int] = {}
        # Bytes that come into use with a stage: of its result, and of inputs that it reads first.
        self._brought: dict[int, float] = {}
        touched = []
        for i, stage in enumerate(region.stages):
            self._brought[i] = self.rows[i] * (stage.tensor.row_bytes + stage.window_bytes)
            size = stage.weight_bytes + self._brought[i]
            for edge in stage.edges:
                if edge.source < 0 and edge.source not in self._first_readers:
                    self._first_readers[edge.source] = i
                    source = region.inputs[-1 - edge.source]
                    rows, _ = _rows_read(edge.rows, self.rows[i], source)
                    self._brought[edge.source] = rows * source.row_bytes
                    size += self._brought[edge.source]
            touched.append(size)
        self._touched = touched
        self._before = [0.0, *itertools.accumulate(touched)]
        self.step_bytes = self._before[-1]

    def cost(self, clock_hz: float, cold: float) -> Vector:
        """Return seconds, those of computing, those of traffic, and bytes.

        Bytes are those of rows from and to each level, and then those of weights.

        Parameters
        ----------
        clock_hz : float
            Cycles a second.
        cold : float
            Share of these columns that are the first of their thread.
        """
        total = np.zeros(COSTS)
        for i, stage in enumerate(self._region.stages):
            every_row = stage.tensor.images * stage.tensor.rows
            work = self.rows[i] * self._row_costs[i]
            compute = (stage.cycles * work / every_row + RUN_CYCLES) / clock_hz
            weights, rows = Traffic(self._caches), Traffic(self._caches)
            self._read_weights(i, cold / self.steps, weights)
            self._read_operands(i, rows)
            self._write_result(i, rows)
            # Weights are read one after another, mostly long before they are needed. For rows the
            # core waits: measured times are nearer to the sum than to the larger of the two.
            exposed = EXPOSED_SHARE * min(compute, weights.seconds)
            seconds = max(compute, weights.seconds) + exposed + rows.seconds
            traffic = weights.seconds + rows.seconds
            total += (seconds, compute, traffic, *rows.moved, *weights.moved)
        return self.steps * total

    def _read_weights(self, i: int, cold: float, traffic: Traffic) -> None:
        """Every tile of rows reads them; a share `cold` of steps after all else in the network."""
        size = self._region.stages[i].weight_bytes
        tiles = max(self.rows[i] / self._region.stages[i].tile, 1.0)
        again = size + (self._touched[i] - size) / tiles
        # All cores read the same.
        traffic.stream(size * cold, Distance(math.inf, self.step_bytes))
        traffic.stream(size * (1 - cold), Distance(self.step_bytes, self.step_bytes))
        traffic.stream(size * (tiles - 1), Distance(again, again))

    def _read_operands(self, i: int, traffic: Traffic) -> None:
        """Rows that are new in this step come from the one who made them, others from the last."""
        for edge in self._region.stages[i].edges:
            is_input = edge.source < 0
            if is_input:
                source = self._region.inputs[-1 - edge.source]
                maker = self._first_readers[edge.source]
            else:
                source = self._region.stages[edge.source].tensor
                maker = edge.source
            new, again = _rows_read(edge.rows, self.rows[i], source)
            if not is_input or maker < i:
                distance = self._private(self._between(maker, i, edge.source))
            elif edge.rows is None:  # in every step, and by all cores
                image = source.bytes / source.images + self.step_bytes
                distance = Distance(image, source.bytes + self.step_bytes)
            else:
                distance = _outside(READ_TENSORS * source.bytes, self._caches.cores)
            traffic.read(new * source.row_bytes, distance)
            traffic.read(again * source.row_bytes, self._private(self.step_bytes))

    def _between(self, maker: int, i: int, source: int) -> float:
        """Return what is touched from when stage `maker` has rows of `source` until `i` reads them.

        All of these rows, and of what else both stages touch a half, on average. (With the whole,
        two linear layers of BERT's would advance by 2 rows, which takes 5 % longer than by 1.)
        """
        others = self._touched[maker] - self._brought[source] + self._touched[i]
        return self._before[i + 1] - self._before[maker] - others / 2

    def _write_result(self, i: int, traffic: Traffic) -> None:
        tensor = self._region.stages[i].tensor
        is_stored = i in self._region.outputs
        outside = _outside(WRITE_TENSORS * tensor.bytes, self._caches.cores)
        distance = outside if is_stored else self._private(self.step_bytes)
        traffic.write(self.rows[i] * tensor.row_bytes, distance)

    def _private(self, own: float) -> Distance:
        return Distance(own, own * self._caches.cores)


def _row_cost(stage: StageShape, rows: float, last: float) -> float:
    """Return the cost of a row if so many are cut into tiles, in those of whole tiles.

    Of the rows, `last` are computed by one run, whose last tile may take in what is left.
    """
    rest = rows % stage.tile
    joins = last > stage.tile and stage.tile + rest <= stage.most_tile_rows
    if not rest or joins:
        return 1.0
    tiles = rows // stage.tile + 1
    return (1 + ROWS_PER_TILE * tiles / rows) / (1 + ROWS_PER_TILE / stage.tile)


def _outside(touched: float, cores: int) -> Distance:
    """Return the distance of what all cores touch in equal shares."""
    return Distance(touched / cores, touched)


def _rows_computed(region: RegionShape, plan: ColumnPlan, start: int, end: int) -> list[float]:
    """Return the rows that each stage computes in the column of rows ``[start, end)``."""
    if plan.overlap == "carry":
        return [high - low for low, high in rows_needed(region, start, end)]
    steps = range(start, end, plan.step_rows)
    # The first and the last step may be at the image's border. Those between are alike, but behind
    # strides their rows differ by one: an average of some of them.
    middle = steps[1:-1]
    sampled = middle[len(middle) // 2 :][:ALIKE] or middle[:ALIKE]
    weights = {steps[0]: 1.0, steps[-1]: 1.0}
    weights.update((first, len(middle) / len(sampled)) for first in sampled)
    total = [0.0] * len(region.stages)
    for first, count in weights.items():
        needed = rows_needed(region, first, min(first + plan.step_rows, end))
        total = [t + count * (high - low) for t, (low, high) in zip(total, needed, strict=True)]
    return total


def _rows_read(seen: RowMap | None, rows: float, source: Tensor) -> tuple[float, float]:
    """Return the rows of an operand read for `rows` rows: new ones, and some of the step before."""
    if seen is None:
        return source.rows, 0.0
    window, advance = seen.before + seen.after, seen.stride / seen.factor
    if window <= advance:
        return rows * window, 0.0
    return rows * advance, window - advance


def _halo_share(region: RegionShape, columns: Sequence[tuple[_Column, int]]) -> float:
    spent = sum(
        count * column.steps * stage.cycles * rows / stage.tensor.rows
        for column, count in columns
        for stage, rows in zip(region.stages, column.rows, strict=True)
    )
    once = sum(stage.cycles for stage in region.stages)
    return spent / once - 1 if once else 0.0


def _first_columns(costs: Sequence[tuple[Vector, int]], columns: int) -> Vector:
    """Return the cost of the first `columns` columns of all images."""
    image = sum(count for _, count in costs)
    images, left = divmod(columns, image)
    total = np.zeros(COSTS)
    for cost, count in costs:
        total += cost * (images * count + min(left, count))
        left -= min(left, count)
    return total


def _prediction(busiest: Vector, work: Vector, columns: int, **sizes: Any) -> Prediction:
    launch = LAUNCH_SECONDS if columns > 1 else 0.0
    seconds, compute, traffic = (float(part) for part in busiest[:3])
    rows, weights = work[3:].reshape(2, len(LEVELS))
    moved, of_weights = (tuple(map(float, counts)) for counts in (rows + weights, weights))
    return Prediction(
        seconds + launch, compute, traffic, moved, of_weights, columns=columns, **sizes
    )

"""The cost of columns of a region.

In every step of a column each stage runs once. A run costs compute cycles, and the traffic of the
bytes that it reads and writes. How far away these bytes are follows from what the core has touched
since it used them last: the rows that the stage before has just written are near, the weights were
last read a step ago, and an input of the region was written by the region before.
"""

from __future__ import annotations

import itertools
import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.columns.shapes import RegionShape, StageShape
from tvm_sparse.costs.overlap import Columns, column_rows_computed, rows_read
from tvm_sparse.costs.traffic import Bytes, Caches, Distance, Traffic, moved
from tvm_sparse.cpu.memory_system import LEVELS

RUN_CYCLES = 150.0
"""Cycles to start a run of a stage: to compute the bounds of its rows and its pointers, and to
enter its loops."""

ROWS_PER_TILE = 2.0
"""Cost of a tile besides the cost of its rows, in rows: once for each tile, a sparse layer loads
its weights with their positions, and a depthwise layer loads the further rows of its window."""

EXPOSED_SHARE = 0.3
"""Share of the time to read weights that computing does not hide; fitted to eight sequences in
BERT on a Xeon."""

READ_TENSORS, WRITE_TENSORS = 2, 4
"""Bytes touched between the write and the read of a row of a region's input, and between the last
use and the write of a row of its output, as multiples of the bytes of that tensor. Before an input
is read, they are the rest of the tensor and about as many bytes again, because its maker reads
while it writes and its reader writes while it reads. The memory of an output was last used by
another tensor, before both of these."""

COSTS = 3 + 2 * len(LEVELS)
"""Numbers that a column costs, see `ColumnCosts.cost`."""

CostVector: TypeAlias = NDArray[np.float64]
"""The `COSTS` numbers of one or several columns, ``[..., COSTS]``."""


class ColumnCosts:
    """The work of columns of one region, all of whose steps are taken to be alike.

    Plans of a region differ in numbers only. So one pass over the stages counts the columns of all
    plans, as arrays ``[columns]``.

    Parameters
    ----------
    region : RegionShape
        The stages.
    columns : Columns
        The columns.
    caches : Caches
        The caches of the core that runs a column.

    Attributes
    ----------
    steps : ndarray
        Steps of each column.
    rows : list of ndarray
        Rows that each stage computes in a step.
    step_bytes : ndarray
        Bytes that a step touches.
    """

    def __init__(self, region: RegionShape, columns: Columns, caches: Caches) -> None:
        self._region, self._caches = region, caches
        self.steps = columns.steps
        self.rows, self._row_costs = rows_and_costs(region, columns)
        # The first stage that reads an input of the region brings its rows near.
        self._first_readers: dict[int, int] = {}
        # Bytes that come into use with a stage: those of its result, and of the inputs that no
        # stage before it reads.
        self._brought: dict[int, Bytes] = {}
        touched: list[NDArray[np.float64]] = []
        for i, stage in enumerate(region.stages):
            brought = self.rows[i] * (stage.tensor.row_bytes + stage.window_bytes)
            self._brought[i] = brought
            size = stage.weight_bytes + brought
            for edge in stage.edges:
                if edge.source < 0 and edge.source not in self._first_readers:
                    self._first_readers[edge.source] = i
                    source = region.inputs[-1 - edge.source]
                    rows, _ = rows_read(edge.rows, self.rows[i], source)
                    self._brought[edge.source] = rows * source.row_bytes
                    size = size + self._brought[edge.source]
            touched.append(size)
        self._touched = touched
        self._before = [np.zeros(len(self.steps)), *itertools.accumulate(touched)]
        self.step_bytes: NDArray[np.float64] = self._before[-1]

    def cost(self, clock_hz: float, cold: Bytes) -> CostVector:
        """Return what the columns cost.

        Parameters
        ----------
        clock_hz : float
            Cycles a second.
        cold : float or ndarray
            Share of such columns that are the first one of their thread.

        Returns
        -------
        ndarray
            `COSTS` numbers for each column, ``[columns, COSTS]``: seconds in all, of computing, and
            of traffic; then for each level the bytes of rows that are moved from and to it, and
            then those of weights.
        """
        stages = range(len(self._region.stages))
        traffics = [Traffic() for _ in (*stages, *stages)]
        weights, rows = traffics[: len(stages)], traffics[len(stages) :]
        for i in stages:
            self._read_weights(i, cold / self.steps, weights[i])
            self._read_operands(i, rows[i])
            self._write_result(i, rows[i])
        total = np.zeros((len(self.steps), COSTS))
        found = moved(traffics, self._caches, len(self.steps))
        for i, of_weights, of_rows in zip(stages, found, found[len(stages) :], strict=False):
            stage = self._region.stages[i]
            compute = compute_seconds(stage, self.rows[i], self._row_costs[i], clock_hz)
            # Weights are read one after another, mostly long before they are needed. The core waits
            # for rows: measured times are nearer to the sum than to the larger of the two.
            exposed = EXPOSED_SHARE * np.minimum(compute, of_weights.seconds)
            total[:, 0] += np.maximum(compute, of_weights.seconds) + exposed + of_rows.seconds
            total[:, 1] += compute
            total[:, 2] += of_weights.seconds + of_rows.seconds
            total[:, 3:] += np.concatenate([of_rows.bytes, of_weights.bytes]).T
        return self.steps[:, None] * total

    def _read_weights(self, i: int, cold: Bytes, traffic: Traffic) -> None:
        """Count the weights of stage `i`, which every tile of rows reads.

        A share `cold` of the steps reads them after everything else in the network was touched.
        """
        size = self._region.stages[i].weight_bytes
        tiles = np.maximum(self.rows[i] / self._region.stages[i].tiles.rows, 1.0)
        again = size + (self._touched[i] - size) / tiles
        # All cores read the same weights.
        traffic.stream(size * cold, Distance(math.inf, self.step_bytes))
        traffic.stream(size * (1 - cold), Distance(self.step_bytes, self.step_bytes))
        traffic.stream(size * (tiles - 1), Distance(again, again))

    def _read_operands(self, i: int, traffic: Traffic) -> None:
        """Count the operands of stage `i`.

        Rows that are new in this step come from the stage that made them, all others from the step
        before.
        """
        for edge in self._region.stages[i].edges:
            is_input = edge.source < 0
            if is_input:
                source = self._region.inputs[-1 - edge.source]
                maker = self._first_readers[edge.source]
            else:
                source = self._region.stages[edge.source].tensor
                maker = edge.source
            new, again = rows_read(edge.rows, self.rows[i], source)
            if not is_input or maker < i:
                distance = self._private(self._between(maker, i, edge.source))
            elif edge.rows is None:  # all cores read it, in every step
                image = source.bytes / source.images + self.step_bytes
                distance = Distance(image, source.bytes + self.step_bytes)
            else:
                distance = outside(READ_TENSORS * source.bytes, self._caches.cores)
            traffic.read(new * source.row_bytes, distance)
            if again:
                traffic.read(again * source.row_bytes, self._private(self.step_bytes))

    def _between(self, maker: int, i: int, source: int) -> Bytes:
        """Return the bytes touched after stage `maker` has rows of `source` until `i` reads them.

        They are all of these rows and, on average, half of everything else that both stages touch.
        """
        rest = self._touched[maker] - self._brought[source] + self._touched[i]
        return self._before[i + 1] - self._before[maker] - rest / 2

    def _write_result(self, i: int, traffic: Traffic) -> None:
        """Count the result of stage `i`."""
        tensor = self._region.stages[i].tensor
        is_stored = i in self._region.outputs
        far = outside(WRITE_TENSORS * tensor.bytes, self._caches.cores)
        distance = far if is_stored else self._private(self.step_bytes)
        traffic.write(self.rows[i] * tensor.row_bytes, distance)

    def _private(self, own: Bytes) -> Distance:
        """Return the distance of bytes after which each core touches `own` bytes."""
        return Distance(own, own * self._caches.cores)


def rows_and_costs(
    region: RegionShape, columns: Columns
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Return for each stage the rows that it computes in a step of each column, and their cost.

    The cost is that of a row, as a multiple of the cost of a row in whole tiles.
    """
    steps = columns.steps
    computed = column_rows_computed(region, columns)
    rows = [of_column / steps for of_column in computed]
    # With carried rows, all tiles of a column are whole except for the last one.
    last = 1 - (steps - 1) * columns.step_rows / (columns.end - columns.start)
    costs = []
    for stage, of_column, of_step in zip(region.stages, computed, rows, strict=True):
        run = np.where(columns.is_carried, of_column, of_step)
        costs.append(_row_cost(stage, run, last * run))
    return rows, costs


def compute_seconds(
    stage: StageShape,
    rows: NDArray[np.float64],
    row_costs: NDArray[np.float64],
    clock_hz: float,
) -> NDArray[np.float64]:
    """Return how long a stage computes in a step of each column."""
    every_row = stage.tensor.images * stage.tensor.rows
    cycles = stage.cycles * (rows * row_costs) / every_row + stage.run_cycles + RUN_CYCLES
    return cycles / clock_hz


def _row_cost(
    stage: StageShape, rows: NDArray[np.float64], last: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the cost of each of `rows` rows in tiles, as a multiple of that in whole tiles.

    The last run computes `last` of the rows; the rest of that run may join its last whole tile.
    """
    tiles = stage.tiles
    rest = rows % tiles.rows
    is_whole = (rest == 0) | ((last > tiles.rows) & tiles.joins(rest))
    count = rows // tiles.rows + 1
    cut = (1 + ROWS_PER_TILE * count / np.maximum(rows, 1e-9)) / (1 + ROWS_PER_TILE / tiles.rows)
    return np.where(is_whole, 1.0, cut)


def outside(touched: float, cores: int) -> Distance:
    """Return the distance of bytes after which all cores touch `touched` bytes in equal shares."""
    return Distance(touched / cores, touched)

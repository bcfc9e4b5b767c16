"""The cost of a region under a plan, for any CPU profile.

A region's columns share the cores, and `tvm_sparse.costs.column` tells what each of them costs. A
single operator is a region of one stage, so that fused and unfused execution are compared by the
same measure.

The functions compute from the profile alone; nothing is run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.rows import typical_columns
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.costs.column import (
    COSTS,
    READ_TENSORS,
    WRITE_TENSORS,
    ColumnCost,
    CostVector,
    outside,
)
from tvm_sparse.costs.overlap import expected_scratch_bytes
from tvm_sparse.costs.traffic import Distance, Traffic, caches
from tvm_sparse.cpu.memory_system import LEVELS
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import LAUNCH_SECONDS


@dataclass(frozen=True)
class Prediction:
    """The expected cost of a region.

    Attributes
    ----------
    seconds : float
        Time of the region.
    compute_seconds, traffic_seconds : float
        Times of computing and of traffic on the busiest core, each as if the other took no time.
        They add up, except that most of the weights are read while the core computes.
    bytes_moved : tuple of float
        Bytes that all cores read and write in L1, L2, L3 and memory.
    weights_moved : tuple of float
        The part of `bytes_moved` that is weights.
    scratch_bytes : int
        Bytes of intermediate results that a core keeps.
    working_set_bytes : int
        Bytes that a core touches in a step: rows, weights, and the region's inputs and outputs.
    halo_share : float
        Compute cycles of rows that are computed again, as a share of all other cycles.
    columns : int
        Number of columns of all images.
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
    """Return the cost of `region` when its columns share the cores.

    Parameters
    ----------
    region : RegionShape
        Stages with their compute cycles.
    plan : ColumnPlan
        Columns and steps.
    cpu : CpuProfile
        The processor, all of whose cores take part.
    """
    region = region.planned
    columns = region.images * plan.columns(region)
    share = -(-columns // cpu.cores)  # columns of a thread; the last threads may have fewer
    kinds = [
        (ColumnCost(region, plan, column, caches(cpu)), count)
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
        scratch_bytes=expected_scratch_bytes(region, plan),
        working_set_bytes=round(max(column.step_bytes for column, _ in kinds)),
        halo_share=_halo_share(region, kinds),
        columns=columns,
    )


def predict_alone(region: RegionShape, cpu: CpuProfile) -> Prediction:
    """Return the cost of a region of one stage as a kernel of its own.

    Where the rows are too few, such a kernel cuts channels, too, so that cores get equal shares.
    But as kernels before and after it mostly cut rows, rows are then handed from core to core.
    """
    region = region.planned
    (stage,) = region.stages
    height = stage.tensor.rows
    image = ColumnCost(region, ColumnPlan(height, height), 0, caches(cpu))
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


def _exchange(region: RegionShape, cpu: CpuProfile) -> CostVector:
    """Return the extra cost of a kernel that cuts channels, because it takes rows from other cores.

    The kernel reads and writes rows that other cores have last written and read, and so do the
    kernels behind it. It costs nothing on a single core, nor without an L3.
    """
    (stage,) = region.stages
    near, far = Traffic(caches(cpu)), Traffic(caches(cpu))
    own = min(stage.row_parts / cpu.cores, 1.0) if stage.row_parts else 1.0
    if own < 1 and cpu.l3_bytes:
        inputs = [region.inputs[-1 - edge.source] for edge in stage.edges if edge.rows is not None]
        for tensor in (*inputs, stage.tensor):
            count, read, write = (n * tensor.bytes for n in (1 - own, READ_TENSORS, WRITE_TENSORS))
            near.read(count, outside(read, cpu.cores))
            near.write(count, outside(write, cpu.cores))
            far.read(count, Distance(math.inf, read))
            far.write(count, Distance(math.inf, write))
    seconds = far.seconds - near.seconds
    moved = np.subtract(far.moved, near.moved)
    return np.array([seconds, 0.0, seconds, *moved, *np.zeros(len(LEVELS))])


def _halo_share(region: RegionShape, columns: Sequence[tuple[ColumnCost, int]]) -> float:
    """Return the cycles of rows that are computed again, as a share of all other cycles."""
    spent = sum(
        count * column.steps * stage.cycles * rows / stage.tensor.rows
        for column, count in columns
        for stage, rows in zip(region.stages, column.rows, strict=True)
    )
    once = sum(stage.cycles for stage in region.stages)
    return spent / once - 1 if once else 0.0


def _first_columns(costs: Sequence[tuple[CostVector, int]], columns: int) -> CostVector:
    """Return the cost of the first `columns` columns of all images."""
    image = sum(count for _, count in costs)
    images, left = divmod(columns, image)
    total = np.zeros(COSTS)
    for cost, count in costs:
        total += cost * (images * count + min(left, count))
        left -= min(left, count)
    return total


def _prediction(busiest: CostVector, work: CostVector, columns: int, **sizes: Any) -> Prediction:
    """Return the prediction for the costs of the busiest core, and of all cores together."""
    launch = LAUNCH_SECONDS if columns > 1 else 0.0
    seconds, compute, traffic = (float(part) for part in busiest[:3])
    rows, weights = work[3:].reshape(2, len(LEVELS))
    moved, of_weights = (tuple(map(float, counts)) for counts in (rows + weights, weights))
    return Prediction(
        seconds + launch, compute, traffic, moved, of_weights, columns=columns, **sizes
    )

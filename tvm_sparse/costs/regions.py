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
from numpy.typing import NDArray

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.rows import typical_columns
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.costs.column import (
    COSTS,
    READ_TENSORS,
    WRITE_TENSORS,
    ColumnCosts,
    CostVector,
    outside,
)
from tvm_sparse.costs.overlap import Columns, Rows, expected_scratch_bytes
from tvm_sparse.costs.traffic import Distance, Traffic, caches, moved
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
    scratch = expected_scratch_bytes(region.planned, [plan])
    return predict_best(region, [plan], scratch, cpu)[1]


def predict_best(
    region: RegionShape, plans: Sequence[ColumnPlan], scratch_bytes: Rows, cpu: CpuProfile
) -> tuple[ColumnPlan, Prediction]:
    """Return the first of the plans with the least expected seconds, and its cost.

    Parameters
    ----------
    region : RegionShape
        Stages with their compute cycles.
    plans : sequence of ColumnPlan
        One or more plans.
    scratch_bytes : ndarray
        The bytes of intermediate results that a core is expected to keep with each plan.
    cpu : CpuProfile
        The processor, all of whose cores take part.
    """
    region = region.planned
    counts = np.array([region.images * plan.columns(region) for plan in plans])
    share = -(-counts // cpu.cores)  # columns of a thread; the last threads may have fewer
    # Every plan has as many typical columns here; those that a plan does not have stand for none.
    typical = [typical_columns(region, plan) for plan in plans]
    kinds = max(map(len, typical))
    padded = [(*found, *[(0, 0)] * (kinds - len(found))) for found in typical]
    which, stands_for = np.moveaxis(np.array(padded), -1, 0)
    column_rows = np.array([plan.column_rows for plan in plans])[:, None]
    start = (which * column_rows).ravel()
    columns = ColumnCosts(
        region,
        Columns(
            start,
            np.minimum(start + np.repeat(column_rows, kinds), region.height),
            np.repeat([plan.step_rows for plan in plans], kinds),
            np.repeat([plan.overlap == "carry" for plan in plans], kinds),
        ),
        caches(cpu),
    )
    costs = columns.cost(cpu.memory_system.clock_hz, cold=np.repeat(1 / share, kinds))
    costs = costs.reshape(len(plans), kinds, COSTS)
    starts = np.minimum(share[:, None] * np.arange(cpu.cores + 1), counts[:, None])
    done = _first_columns(costs, stands_for, starts)
    work = np.diff(done, axis=1)
    seconds = work[:, :, 0].max(axis=1) + np.where(counts > 1, LAUNCH_SECONDS, 0.0)
    best = int(first_of_least(seconds))
    busiest = work[best, np.argmax(work[best, :, 0])]
    mine = slice(best * kinds, best * kinds + len(typical[best]))
    return plans[best], _prediction(
        busiest,
        work[best].sum(axis=0),
        scratch_bytes=int(scratch_bytes[best]),
        working_set_bytes=round(float(columns.step_bytes[mine].max())),
        halo_share=_halo_share(region, columns, mine, stands_for[best]),
        columns=int(counts[best]),
    )


def first_of_least(seconds: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the number of the first plan of the least seconds, whose last digits are noise."""
    least = seconds.min(axis=-1, keepdims=True)
    return np.argmax(seconds <= least * (1 + 1e-9), axis=-1)


def predict_alone(region: RegionShape, cpu: CpuProfile) -> Prediction:
    """Return the cost of a region of one stage as a kernel of its own.

    Where the rows are too few, such a kernel cuts channels, too, so that cores get equal shares.
    But as kernels before and after it mostly cut rows, rows are then handed from core to core.
    """
    region = region.planned
    (stage,) = region.stages
    height = np.array([stage.tensor.rows])
    whole = Columns(np.zeros_like(height), height, height, np.array([True]))
    image = ColumnCosts(region, whole, caches(cpu))
    cold = min(cpu.cores / region.images, 1.0)
    work = region.images * image.cost(cpu.memory_system.clock_hz, cold)[0]
    work += _exchange(region, cpu)
    return _prediction(
        work / cpu.cores,
        work,
        scratch_bytes=0,
        working_set_bytes=round(float(image.step_bytes[0]) / cpu.cores),
        halo_share=0.0,
        columns=max(region.images, cpu.cores),
    )


def _exchange(region: RegionShape, cpu: CpuProfile) -> CostVector:
    """Return the extra cost of a kernel that cuts channels, because it takes rows from other cores.

    The kernel reads and writes rows that other cores have last written and read, and so do the
    kernels behind it. It costs nothing on a single core, nor without an L3.
    """
    (stage,) = region.stages
    near, far = Traffic(), Traffic()
    own = min(stage.row_parts / cpu.cores, 1.0) if stage.row_parts else 1.0
    if own == 1 or not cpu.l3_bytes:
        return np.zeros(COSTS)
    inputs = [region.inputs[-1 - edge.source] for edge in stage.edges if edge.rows is not None]
    for tensor in (*inputs, stage.tensor):
        count, read, write = (n * tensor.bytes for n in (1 - own, READ_TENSORS, WRITE_TENSORS))
        near.read(count, outside(read, cpu.cores))
        near.write(count, outside(write, cpu.cores))
        far.read(count, Distance(math.inf, read))
        far.write(count, Distance(math.inf, write))
    here, there = moved([near, far], caches(cpu))
    seconds = float(there.seconds[0] - here.seconds[0])
    rows = (there.bytes - here.bytes)[:, 0]
    return np.array([seconds, 0.0, seconds, *rows, *np.zeros(len(LEVELS))])


def _halo_share(
    region: RegionShape, columns: ColumnCosts, which: slice, stands_for: NDArray[np.int64]
) -> float:
    """Return the cycles of rows that are computed again, as a share of all other cycles."""
    steps = columns.steps[which]
    spent = sum(
        float((stands_for[: len(steps)] * steps * rows[which]).sum())
        * stage.cycles
        / stage.tensor.rows
        for stage, rows in zip(region.stages, columns.rows, strict=True)
    )
    once = sum(stage.cycles for stage in region.stages)
    return spent / once - 1 if once else 0.0


def _first_columns(
    costs: CostVector, counts: NDArray[np.int64], columns: NDArray[np.int64]
) -> CostVector:
    """Return the cost of the first columns of all images.

    Parameters
    ----------
    costs : ndarray
        The cost of every kind of column, ``[plans, kinds, COSTS]``.
    counts : ndarray
        The columns of an image that are of each kind, ``[plans, kinds]``.
    columns : ndarray
        Numbers of columns, ``[plans, n]``.

    Returns
    -------
    ndarray
        The cost of so many columns, ``[plans, n, COSTS]``.
    """
    images, left = np.divmod(columns, counts.sum(axis=1, keepdims=True))
    total = np.zeros((*columns.shape, COSTS))
    for kind in range(counts.shape[1]):
        count = counts[:, kind, None]
        taken = np.minimum(left, count)
        total += costs[:, kind, None] * (images * count + taken)[:, :, None]
        left = left - taken
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

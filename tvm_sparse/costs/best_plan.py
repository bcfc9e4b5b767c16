"""Which plans of a region are worth a prediction, and which of them costs the least."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from tvm_sparse.columns.plans import ColumnPlan, Overlap
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.costs.overlap import Rows, expected_scratch_bytes
from tvm_sparse.costs.regions import Prediction, predict_best
from tvm_sparse.cpu.profile import CpuProfile

STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Sizes of steps that are considered besides whole columns, in tiles of the last stage."""


def best_plan(
    region: RegionShape, cpu: CpuProfile, overlap: Overlap | Literal["auto"] = "auto"
) -> tuple[ColumnPlan, Prediction]:
    """Return the plan that is expected to be the fastest, and its cost.

    Parameters
    ----------
    region : RegionShape
        The region to cut.
    cpu : CpuProfile
        The processor.
    overlap : str
        ``"auto"`` chooses between ``"recompute"`` and ``"carry"``.
    """
    return predict_best(region, *_promising(region, cpu, overlaps_of(overlap)), cpu)


def overlaps_of(overlap: Overlap | Literal["auto"]) -> Sequence[Overlap]:
    """Return the kinds of overlap that an option leaves to choose from."""
    return ("carry", "recompute") if overlap == "auto" else (overlap,)


def promising_plans(
    region: RegionShape, cpu: CpuProfile, overlaps: Sequence[Overlap] = ("carry", "recompute")
) -> list[ColumnPlan]:
    """Return the plans worth a prediction; at least one.

    The largest columns give all cores equal shares; smaller ones are halves of these, down to tiles
    of the last stage. Steps are a few of its tiles. Plans that need more scratch memory than the L2
    cache holds are left out.
    """
    return _promising(region, cpu, overlaps)[0]


def _promising(
    region: RegionShape, cpu: CpuProfile, overlaps: Sequence[Overlap]
) -> tuple[list[ColumnPlan], Rows]:
    """Return the plans worth a prediction, and the scratch memory that each is expected to need."""
    region = region.planned
    plans = possible_plans(region, cpu, overlaps)
    scratch = expected_scratch_bytes(region, plans)
    fits = scratch <= cpu.l2_bytes
    fits[0] |= not fits.any()
    return list(itertools.compress(plans, fits)), scratch[fits]


def possible_plans(
    region: RegionShape, cpu: CpuProfile, overlaps: Sequence[Overlap]
) -> list[ColumnPlan]:
    """Return the plans worth a look; they follow from the last stage.

    The first one, of the largest columns and the smallest steps, is for regions that need more
    scratch memory than the L2 cache holds whatever their plan.
    """
    tile = region.stages[-1].tiles.rows
    most = -(-region.height // tile)
    fewest = -(-min(cpu.cores, region.height * region.images) // region.images)
    counts = [fewest, *(fewest << k for k in range(1, most.bit_length()) if fewest << k <= most)]
    sizes = {-(-region.height // count) for count in counts}
    return [
        ColumnPlan(size, step, overlap)
        for size in sorted(sizes, reverse=True)
        for step in [*(step * tile for step in STEPS if step * tile < size), size]
        for overlap in (overlaps if step < size else overlaps[:1])
    ]

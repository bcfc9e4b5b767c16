"""The kernels of a layer, and the plans of a region, in the order in which the tuner tries them.

The expected costs are those by which the compiler chooses: the `cycles` of a kernel's family, and
the predictions of `tvm_sparse.costs.regions`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm_sparse.columns.plans import ColumnPlan, Stops
from tvm_sparse.columns.shapes import RegionShape, part
from tvm_sparse.costs.best_plan import best_plan, promising_plans
from tvm_sparse.costs.regions import predict, predict_alone
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.tilings.families import Tiling, default_kernel, families_of
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.layer import Layer


@dataclass(frozen=True)
class KernelCandidate:
    """A kernel and what it is expected to cost.

    Attributes
    ----------
    tiling : Tiling
        The kernel.
    seconds : float
        The time that the cost model predicts for all cores at work.
    """

    tiling: Tiling
    seconds: float


def kernel_candidates(layer: Layer[Any], cpu: CpuProfile, hopeless: float) -> list[KernelCandidate]:
    """Return the kernels to try: the compiler's choice, then the best one of every register tile.

    After them come the second best tilings of every register tile, and so on.

    Parameters
    ----------
    layer : Layer
        The layer.
    cpu : CpuProfile
        The processor.
    hopeless : float
        Kernels that are expected to take so many times as long as the best of their family are
        left out, and so is a family whose default takes so many times as long as the best default.
    """
    chosen = default_kernel(layer, cpu)
    families = families_of(layer, cpu)
    defaults = {family.name: family.default(layer, cpu) for family in families}
    expected = {f.name: f.cycles(layer, defaults[f.name], cpu) for f in families}
    least = min(expected.values())
    ranked = []
    for family in families:
        if defaults[family.name] == chosen or expected[family.name] <= hopeless * least:
            ranked += _ranked(family, _candidates(family, layer, cpu), hopeless)
    first = [candidate for _, candidate in ranked if candidate.tiling == chosen]
    others = [pair for pair in ranked if pair[1].tiling != chosen]
    return [*first, *(candidate for _, candidate in sorted(others, key=lambda pair: pair[0]))]


def _candidates(
    family: Family[Any, Any], layer: Layer[Any], cpu: CpuProfile
) -> list[KernelCandidate]:
    """Return the kernels of a family, the default first."""
    a_second = cpu.memory_system.clock_hz * cpu.cores
    tilings = dict.fromkeys((family.default(layer, cpu), *family.tilings(layer, cpu)))
    return [KernelCandidate(t, family.cycles(layer, t, cpu) / a_second) for t in tilings]


def _ranked(
    family: Family[Any, Any], candidates: Sequence[KernelCandidate], hopeless: float
) -> list[tuple[int, KernelCandidate]]:
    """Return the hopeful candidates, each with its rank among those of the same register tile."""
    default = candidates[0]
    least = min(candidate.seconds for candidate in candidates)
    seen: Counter[object] = Counter()
    ranked = []
    for candidate in sorted(candidates, key=lambda candidate: candidate.seconds):
        if candidate is default or candidate.seconds <= hopeless * least:
            tile = family.register_tile(candidate.tiling)
            ranked.append((seen[tile], candidate))
            seen[tile] += 1
    return ranked


@dataclass(frozen=True)
class RegionCandidate:
    """A plan and its expected time.

    Attributes
    ----------
    plan : ColumnPlan or Stops
        The plan.
    seconds : float
        The time that the cost model predicts.
    """

    plan: ColumnPlan | Stops
    seconds: float


def region_candidates(
    region: RegionShape, cpu: CpuProfile, hopeless: float, is_formed: bool = True
) -> list[RegionCandidate]:
    """Return the plans to try: the cost model's choice, the best of each column size, and stops.

    After them come the second best plans of each column size, and so on: neighbouring steps of the
    same columns differ too little to spend the first trials on them.

    Parameters
    ----------
    region : RegionShape
        The region.
    cpu : CpuProfile
        The processor.
    hopeless : float
        Plans that are expected to take so many times as long as the best are left out. The plan
        that runs the operators one by one is always in the list.
    is_formed : bool
        Whether the cost model would form the region. If so, the operators one by one are the second
        plan, else the first.
    """
    plans = promising_plans(region, cpu)
    known = [RegionCandidate(p, predict(region, p, cpu).seconds) for p in plans]
    count = len(region.stages)
    known += [_stopped(region, Stops((stage,)), cpu) for stage in range(1, count)]
    known.sort(key=lambda candidate: candidate.seconds)
    fused = next(c for c in known if isinstance(c.plan, ColumnPlan))
    apart = _stopped(region, Stops.everywhere(count), cpu)
    seen: Counter[object] = Counter()
    ranked = []
    for candidate in known:
        if candidate.seconds <= hopeless * fused.seconds:
            plan = candidate.plan
            group = plan.column_rows if isinstance(plan, ColumnPlan) else plan
            ranked.append((seen[group], candidate))
            seen[group] += 1
    others = [candidate for _, candidate in sorted(ranked, key=lambda pair: pair[0])]
    first = [fused, apart] if is_formed else [apart, fused]
    return [*first, *(c for c in others if c not in first)]


def _stopped(region: RegionShape, stops: Stops, cpu: CpuProfile) -> RegionCandidate:
    """Return stops, with the time that they take under the cost model's plan for each part."""
    seconds = 0.0
    for first, end in stops.parts(len(region.stages)):
        shape = part(region, first, end)
        if end - first == 1:
            seconds += predict_alone(shape, cpu).seconds
        else:
            seconds += best_plan(shape, cpu)[1].seconds
    return RegionCandidate(stops, seconds)

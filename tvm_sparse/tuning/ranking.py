"""The kernels of a layer that are worth a trial, in the order in which the tuner tries them.

What they are expected to cost is what the compiler expects: the `cycles` of their family.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
        The cost model's prediction, all cores at work.
    """

    tiling: Tiling
    seconds: float


def kernel_candidates(layer: Layer[Any], cpu: CpuProfile, hopeless: float) -> list[KernelCandidate]:
    """Return what to try: the compiler's choice, then the best tiling of every register tile.

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
    """Return the hopeful ones, each with its place among those of the same register tile."""
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

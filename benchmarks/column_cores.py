"""The gain that tensor columns are expected to have with other numbers of cores.

The cost model plans every model for several numbers of cores of this CPU, and predicts its time in
columns and operator by operator. The bandwidth of L3 and memory for all cores together lies between
two ends: it stays that of the cores that were measured ("shared"), or grows with the number of
cores ("growing").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from column_cases import Case, stages_alone

from tvm_sparse.costs.regions import predict_alone
from tvm_sparse.cpu.memory_system import Bandwidth
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.frontends.load import import_module
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.regions.form_regions import REGIONS, FormRegions

HEADER = (
    "| model | cores | off ms | auto ms | auto | times one core | regions | columns | "
    "with L3 and memory growing: off ms | auto ms | auto | times one core | regions | columns |\n"
    "| --- |" + " ---: |" * 13
)


@dataclass(frozen=True)
class Simulated:
    """The prediction for a model.

    Attributes
    ----------
    off, auto : float
        Seconds of the operators that can be stages of columns, one by one and in columns.
    columns : tuple of int
        The number of columns of every region, over all images.
    """

    off: float
    auto: float
    columns: tuple[int, ...]


def with_cores(cpu: CpuProfile, cores: int, growing: bool) -> CpuProfile:
    """Return a processor with more, or fewer, of the same cores.

    Parameters
    ----------
    cpu : CpuProfile
        The processor, whose cores were measured while they shared L3 and memory.
    cores : int
        The number of cores of the result.
    growing : bool
        Whether the bandwidth of all cores together grows with their number, up to the sum of what
        each of them gets alone.
    """

    def grown(level: Bandwidth) -> Bandwidth:
        if level.shared is None:
            return level
        return replace(level, shared=level.shared * cores / cpu.cores)

    system = cpu.memory_system
    if growing:
        system = replace(system, l3=grown(system.l3), memory=grown(system.memory))
    return replace(cpu, cores=cores, measured=system)


def simulate(
    case: Case, cpu: CpuProfile, cores: Sequence[int]
) -> Iterator[tuple[int, Simulated, Simulated]]:
    """Yield each number of cores, and a model on them: with L3 and memory shared, and growing."""
    mod = import_module(case.source, case.shapes).mod
    for count in cores:
        some = replace(cpu, cores=count)
        panels = pipeline.front(mod, some).mod
        alone = list(stages_alone(panels, some))
        found = []
        for growing in (False, True):
            larger = with_cores(cpu, count, growing)
            reports = FormRegions(larger)(panels).attrs[REGIONS]
            found.append(
                Simulated(
                    sum(predict_alone(shape, larger).seconds for shape in alone),
                    sum(float(report["seconds"]) for report in reports),
                    tuple(int(report["columns"]) for report in reports if "columns" in report),
                )
            )
        yield count, *found


def table(cases: Sequence[Case], cpu: CpuProfile, cores: Sequence[int]) -> None:
    """Print the expected times of models on different numbers of cores."""
    print(HEADER)
    for case in cases:
        one: tuple[Simulated, Simulated] | None = None
        for count, *both in simulate(case, cpu, sorted({1, *cores})):
            one = one or (both[0], both[1])
            if count in cores:
                cells = [c for o, s in zip(one, both, strict=True) for c in _cells(o, s)]
                print(f"| {case.name} | {count} | {' | '.join(cells)} |", flush=True)


def _cells(one: Simulated, some: Simulated) -> list[str]:
    columns = f"{min(some.columns)} to {max(some.columns)}" if some.columns else "-"
    return [
        f"{1e3 * some.off:.2f}",
        f"{1e3 * some.auto:.2f}",
        f"{some.off / some.auto:.2f}x" if some.auto else "-",
        f"{one.auto / some.auto:.1f}" if some.auto else "-",
        str(len(some.columns)),
        columns,
    ]

"""Plans of regions that were measured: what names a region in the records, and looking it up."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tvm_sparse import records
from tvm_sparse.columns import ColumnPlan, Overlap, RegionShape, Stops
from tvm_sparse.records import Key, Plan, Records

if TYPE_CHECKING:
    from tvm_sparse.targets import CpuProfile


def key_of(region: RegionShape, cpu: CpuProfile) -> Key:
    """Return the key of a region's records on a processor with all its cores."""
    return Key(region_key(region), target_key(cpu), cpu.cores)


def region_key(region: RegionShape) -> str:
    """Return a name of a region's structure: operators for people, a digest of the whole.

    Neither weights nor their exact number of zeros are part of it, only what the stages' keys say.
    """
    names = []
    for name, alike in itertools.groupby(stage.name for stage in region.stages):
        count = len(list(alike))
        names.append(f"{count} {name}" if count > 1 else name)
    structure = (
        [(stage.key, stage.tensor, stage.edges, stage.tile) for stage in region.stages],
        region.inputs,
        region.outputs,
    )
    last = region.stages[-1].tensor
    size = f"{last.images}x{last.rows}x{last.channels}x{last.lanes}"
    digest = hashlib.sha256(repr(structure).encode()).hexdigest()[:16]
    return f"{' > '.join(names)} @ {size} #{digest}"


def target_key(cpu: CpuProfile) -> str:
    """Return what a processor's plans depend on: its instructions and its private caches."""
    features = "".join(f" {feature}" for feature in cpu.mattr)
    caches = f"L1 {cpu.l1_bytes // 1024} KB, L2 {cpu.l2_bytes // 1024} KB"
    return f"{cpu.mcpu}{features}, {cpu.vector_bits} bits, {caches}"


def to_fields(plan: ColumnPlan | Stops) -> Plan:
    """Return a plan as the records hold it."""
    if isinstance(plan, Stops):
        return {"stops_before": ",".join(map(str, plan.before))}
    return cast(Plan, asdict(plan))


def from_fields(fields: Plan) -> ColumnPlan | Stops | None:
    """Return the plan in a record, or None if a plan cannot have these fields."""
    stops = fields.get("stops_before")
    if isinstance(stops, str):
        try:
            before = tuple(int(stage) for stage in stops.split(","))
        except ValueError:
            return None
        return Stops(before) if before == tuple(sorted({*before})) and before[0] > 0 else None
    rows, steps, overlap = (fields.get(name) for name in ("column_rows", "step_rows", "overlap"))
    if not (isinstance(rows, int) and isinstance(steps, int) and 1 <= steps <= rows):
        return None
    if overlap not in ("recompute", "carry"):
        return None
    return ColumnPlan(rows, steps, cast(Overlap, overlap))


@dataclass
class RecordedPlans:
    """The best plans of records, as far as there are any.

    Attributes
    ----------
    records : Records
        What was measured.
    source : str
        Where they are from, for people; empty if there are none.
    found, missing : list of str
        Keys of the regions for which a plan was asked: with and without one.
    """

    records: Records = field(default_factory=Records)
    source: str = ""
    found: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path | None) -> RecordedPlans:
        """Read the plans of a file, or by default of the user's, if there is one.

        Raises
        ------
        RecordsError
            If `path` is given and cannot be read.
        """
        chosen = path or records.default_path()
        if path is None and not chosen.exists():
            return cls()
        return cls(records.read(chosen), str(chosen))

    def on(self, cpu: CpuProfile) -> Callable[[RegionShape], ColumnPlan | Stops | None]:
        """Return a function that gives the best plan for a region on a processor, if one is known.

        Records of another processor or number of threads are not used.
        """

        def plan_for(region: RegionShape) -> ColumnPlan | Stops | None:
            key = key_of(region, cpu)
            best = self.records.best(key)
            plan = from_fields(best.plan) if best else None
            if isinstance(plan, Stops) and plan.before[-1] >= len(region.stages):
                plan = None
            (self.missing if plan is None else self.found).append(key.region)
            return plan

        return plan_for

    def summary(self) -> str:
        """Say how many regions got a plan from records, and how many from the cost model."""
        count = len(self.found) + len(self.missing)
        if not count:
            return "no tensor columns"
        if not self.found:
            return f"{count} regions of tensor columns, planned by the cost model"
        by_model = f", {len(self.missing)} by the cost model" if self.missing else ""
        return f"{count} regions of tensor columns: {len(self.found)} by {self.source}{by_model}"

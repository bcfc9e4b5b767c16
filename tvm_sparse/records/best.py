"""Plans of regions that were measured: what names a region in the records, and looking it up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tvm_sparse.columns.plans import ColumnPlan, Measured, Overlap, Stops
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.records import file
from tvm_sparse.records.file import Plan, Record, Records, ratio
from tvm_sparse.records.keys import key_of, key_on, layer_key
from tvm_sparse.tilings import families
from tvm_sparse.tilings.families import KernelFor
from tvm_sparse.tilings.layer import Layer, Tiling

if TYPE_CHECKING:
    from tvm_sparse.cpu.profile import CpuProfile
    from tvm_sparse.records.choices import Choices, TokenNetwork


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


LEAST_KERNEL_GAIN = 0.05
"""What a layer's kernel must gain by itself to take the place of the cost model's, whose tiles suit
tensor columns, too: regions gain more by them than a few percent of one layer."""

BY_COST_MODEL = "cost model"
"""The choices of a model that runs faster without records."""


def is_plan(fields: Plan) -> bool:
    """Return whether fields are a layer's kernel, lanes, a model's choices or a region's plan."""
    if "kernel" in fields:
        return families.from_fields(fields) is not None
    for name, kind in (("lanes", int), ("choices", str)):
        if name in fields:
            return isinstance(fields[name], kind)
    return from_fields(fields) is not None


@dataclass
class RecordedPlans:
    """The best plans of records, as far as there are any.

    Attributes
    ----------
    records : Records
        What was measured.
    source : str
        Where they are from, for people; empty if there are none.
    by_records, by_cost_model : int
        How many regions were planned by either when something was compiled.
    kernels : set of str
        Layers whose kernels are from records: the keys.
    lanes : int
        Lanes of panels of tokens, if they are from a record; else 0.
    is_refused : bool
        Whether the model as a whole was measured to be faster without the records.
    """

    records: Records = field(default_factory=Records)
    source: str = ""
    by_records: int = 0
    by_cost_model: int = 0
    kernels: set[str] = field(default_factory=set)
    lanes: int = 0
    is_refused: bool = False

    @classmethod
    def read(cls, path: Path | None) -> RecordedPlans:
        """Read the plans of a file, or by default of the user's, if there is one.

        Raises
        ------
        RecordsError
            If `path` is given and cannot be read.
        """
        chosen = path or file.default_path()
        if path is None and not chosen.exists():
            return cls()
        return cls(file.read(chosen, is_plan), str(chosen))

    def on(self, cpu: CpuProfile) -> Callable[[RegionShape], Measured | None]:
        """Return a function that gives the best plan for a region on a processor, if one is known.

        Records of another processor or number of threads are not used.
        """

        def plan_for(region: RegionShape) -> Measured | None:
            key = key_of(region, cpu)
            best = self.records.best(key)
            plan = from_fields(best.plan) if best else None
            count = len(region.stages)
            if best is None or plan is None:
                return None
            if isinstance(plan, Stops) and plan.before[-1] >= count:
                return None
            apart = self.records.beside(best, to_fields(Stops(tuple(range(1, count)))))
            return Measured(plan, 1 / ratio(apart, best)) if apart else None

        return plan_for

    def choices_on(self, cpu: CpuProfile) -> Choices:
        """Return what is known for a processor, as the pipeline takes it."""
        from tvm_sparse.records.choices import Choices

        def refuses(key: str) -> bool:
            best = self.records.best(key_on(key, cpu))
            self.is_refused = best is not None and best.plan.get("choices") == BY_COST_MODEL
            return self.is_refused

        return Choices(self.lanes_on(cpu), self.kernels_on(cpu), self.on(cpu), refuses)

    def kernels_on(self, cpu: CpuProfile) -> KernelFor:
        """Return a function that gives the best kernel for a layer on a processor, if known."""

        def kernel_for(layer: Layer) -> Tiling | None:
            key = layer_key(layer)
            best = self.records.best(key_on(key, cpu))
            tiling = families.from_fields(self._worth_it(best).plan) if best else None
            if tiling is None or not layer.fits(tiling):  # somebody edited the records
                return None
            self.kernels.add(key)
            return tiling

        return kernel_for

    def _worth_it(self, kernel: Record) -> Record:
        """Return a kernel, or the one that was tried first if it is hardly slower."""
        first = self.records.beside(kernel, self.records.of(kernel.key)[0].plan)
        if first is None or ratio(first, kernel) >= 1 + LEAST_KERNEL_GAIN:
            return kernel
        return first

    def lanes_on(self, cpu: CpuProfile) -> Callable[[TokenNetwork], int | None]:
        """Return a function that gives the best lanes for a network on a processor, if known."""

        def lanes_for(network: TokenNetwork) -> int | None:
            best = self.records.best(key_on(network.key, cpu))
            lanes = best.plan.get("lanes") if best else None
            if not isinstance(lanes, int) or lanes < 1 or lanes % cpu.vector_lanes:
                return None
            self.lanes = lanes
            return lanes

        return lanes_for

    def count(self, regions: Sequence[Mapping[str, Any]]) -> None:
        """Note who planned the regions of a module, whose attribute this is."""
        by = [str(region["source"]) for region in regions]
        self.by_records = by.count("record")
        self.by_cost_model = sum(
            source == "cost model" and "column_rows" in region
            for source, region in zip(by, regions, strict=True)
        )

    def summary(self) -> str:
        """Say what is from records, and how many regions the cost model planned."""
        measured = [f"{self.lanes} lanes"] if self.lanes else []
        if self.kernels:
            s = "s" if len(self.kernels) > 1 else ""
            measured.append(f"kernels of {len(self.kernels)} kind{s} of layer{s}")
        found = f"; {' and '.join(measured)} by {self.source}" if measured else ""
        if self.is_refused:
            found = f"; as a whole faster than with {self.source}"
        return self._columns() + found

    def _columns(self) -> str:
        if not self.by_records + self.by_cost_model:
            return "no tensor columns"
        by = []
        if self.by_records:
            by.append(f"{self.by_records} by {self.source}")
        if self.by_cost_model:
            by.append(f"{self.by_cost_model} by the cost model")
        return f"tensor columns planned: {', '.join(by)}"

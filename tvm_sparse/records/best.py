"""The best plans in the tuning records, and looking them up."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from tvm_sparse.columns.plans import ColumnPlan, Measured, Overlap, PlanFor, Stops
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.errors import OutputError, RecordsError
from tvm_sparse.records import file
from tvm_sparse.records.file import Records, ratio
from tvm_sparse.records.keys import key_of, key_on, layer_key, network_key
from tvm_sparse.records.lookups import LanesFor, Lookups, TokenNetwork
from tvm_sparse.records.record import Plan, Record
from tvm_sparse.tilings.families import KernelFor, Tiling, is_tried, kernel_from_fields
from tvm_sparse.tilings.layer import Layer

_log = logging.getLogger(__name__)


def plan_to_fields(plan: ColumnPlan | Stops) -> Plan:
    """Return the fields by which the records hold a plan."""
    if isinstance(plan, Stops):
        return {"stops_before": ",".join(map(str, plan.before))}
    return cast(Plan, asdict(plan))


def plan_from_fields(fields: Plan) -> ColumnPlan | Stops | None:
    """Return the plan with these fields, or None if a plan cannot have them."""
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
"""Share of the time that a measured kernel must gain over the cost model's to replace it.

The tiles of the cost model suit tensor columns, too, and a region gains more by them than it would
by a few percent of one layer.
"""

BY_COST_MODEL = "cost model"
"""The field ``choices`` of a model that runs faster without records."""


def is_plan(fields: Plan) -> bool:
    """Return whether these are the fields of a kernel, of lanes, of a model's choices or a plan."""
    if "kernel" in fields:
        return kernel_from_fields(fields) is not None
    for name, kind in (("lanes", int), ("choices", str)):
        if name in fields:
            return isinstance(fields[name], kind)
    return plan_from_fields(fields) is not None


@dataclass(frozen=True)
class RecordedPlans:
    """The records of a file, and the best plans in them.

    Attributes
    ----------
    records : Records
        What was measured.
    source : str
        The file, for people; empty if there is none.
    """

    records: Records = field(default_factory=Records)
    source: str = ""

    @classmethod
    def read(cls, path: Path | None) -> RecordedPlans:
        """Read the plans of a file, or by default of the user's, if there is one.

        A file of the user's that cannot be read is left alone; a warning says so.

        Raises
        ------
        RecordsError
            If `path` is given and cannot be read.
        """
        if path is not None:
            return cls(file.read(path, is_plan), str(path))
        try:
            chosen = file.default_path()
        except OutputError:
            return cls()  # A user without a home folder has no records.
        try:
            if chosen.exists():
                return cls(file.read(chosen, is_plan), str(chosen))
        except (OSError, RecordsError) as error:
            _log.warning("%s; compiled without the records of `tvm-sparse tune`", error)
        return cls()

    def lookups_on(self, cpu: CpuProfile) -> Lookups:
        """Return what the pipeline looks up, for a processor with all its cores.

        Records of another processor or of another number of threads are not used.
        """

        def refuses(key: str) -> bool:
            best = self.records.best(key_on(key, cpu))
            return best is not None and best.plan.get("choices") == BY_COST_MODEL

        return Lookups(
            self.lanes_on(cpu), self.kernels_on(cpu), self.plans_on(cpu), refuses, self.source
        )

    def known_on(self, cpu: CpuProfile) -> Lookups | None:
        """Return what a compilation looks up; None, which asks for no keys, without records."""
        return self.lookups_on(cpu) if len(self.records) else None

    def plans_on(self, cpu: CpuProfile) -> PlanFor:
        """Return the function that looks up the best plan for a region."""

        def plan_for(region: RegionShape) -> Measured | None:
            best = self.records.best(key_of(region, cpu))
            plan = plan_from_fields(best.plan) if best else None
            count = len(region.stages)
            if best is None or plan is None:
                return None
            if isinstance(plan, Stops) and plan.before[-1] >= count:
                return None
            if isinstance(plan, ColumnPlan) and plan.column_rows > region.height:
                return None
            apart = self.records.beside(best, plan_to_fields(Stops.everywhere(count)))
            return Measured(plan, 1 / ratio(apart, best)) if apart else None

        return plan_for

    def kernels_on(self, cpu: CpuProfile) -> KernelFor:
        """Return the function that looks up the best kernel for a layer."""

        def kernel_for(layer: Layer[Any]) -> Tiling | None:
            best = self.records.best(key_on(layer_key(layer), cpu))
            tiling = kernel_from_fields(self._worth_it(best).plan) if best else None
            # Records that were edited or damaged may hold a kernel that the tuner never tried.
            if tiling is None or not is_tried(layer, tiling, cpu):
                return None
            return tiling

        return kernel_for

    def _worth_it(self, kernel: Record) -> Record:
        """Return a kernel, or the one that was tried first if it is hardly slower."""
        first = self.records.beside(kernel, self.records.of(kernel.key)[0].plan)
        if first is None or ratio(first, kernel) >= 1 + LEAST_KERNEL_GAIN:
            return kernel
        return first

    def lanes_on(self, cpu: CpuProfile) -> LanesFor:
        """Return the function that looks up the best lanes for a network on tokens."""
        vector = cpu.vector_lanes(cpu.activations)

        def lanes_for(network: TokenNetwork) -> int | None:
            best = self.records.best(key_on(network_key(network), cpu))
            lanes = best.plan.get("lanes") if best else None
            if not isinstance(lanes, int) or lanes < 1 or lanes % vector:
                return None
            if lanes >= network.tokens + vector:  # a vector of padding and more
                return None
            return lanes

        return lanes_for

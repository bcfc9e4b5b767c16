"""The compiler's decisions on a model, with their reasons, without compiling it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.columns.options import ColumnRows, OverlapOption, check_column_options
from tvm_sparse.columns.shapes import RegionShape, part
from tvm_sparse.compile_report import CompileReport
from tvm_sparse.compiling import one_at_a_time
from tvm_sparse.costs.regions import Prediction, predict_alone
from tvm_sparse.cpu.precision import PrecisionOption, chosen, processor
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.threads import check_threads
from tvm_sparse.frontends.hinted import Hinted, at_hints
from tvm_sparse.frontends.load import import_module, import_step, no_fallback
from tvm_sparse.layer_report import LayerReport, explained
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.ir.shapes import static_shape
from tvm_sparse.passes.regions.fewer_threads import is_small, may_be_small
from tvm_sparse.passes.regions.form_regions import PREFIX, REGION, FormRegions
from tvm_sparse.passes.regions.region_planner import PlannedRegion, RegionPlanner
from tvm_sparse.passes.reporting import compile_report, layers_of
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.records.lookups import Lookups
from tvm_sparse.specs import Hints
from tvm_sparse.verification.calibration import calibration_for


@dataclass(frozen=True)
class OperatorReport:
    """An operator, in the order of execution.

    Attributes
    ----------
    name, operator : str
        The name of the layer or of the result, and the kind of operator.
    shape : tuple of int
        The shape of its result, in panels if it is in a region; empty if the shape is unknown.
    reads : tuple of int
        The numbers of the operators whose results it reads.
    region : int, optional
        The number of its region; None if it is in no region.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    reads: tuple[int, ...]
    region: int | None


@dataclass(frozen=True)
class Analysis:
    """The compiler's decisions on a model.

    Attributes
    ----------
    model : str
        The name of the model.
    cpu : CpuProfile
        The processor that it is analyzed for.
    layers : tuple of LayerReport
        The layers with a weight, in the order of the model.
    operators : tuple of OperatorReport
        The operators in the order of execution.
    regions : tuple of PlannedRegion
        The regions in the order of execution; their numbers count from 0.
    alone, together : IRModule
        The model without regions, and with each region as a function.
    precision : str
        What activations are computed in; if the compiler chose it, also why.
    planned_for : str
        One sentence on the sizes that open dimensions have here; empty if none is open.
    """

    model: str
    cpu: CpuProfile
    layers: tuple[LayerReport, ...]
    operators: tuple[OperatorReport, ...]
    regions: tuple[PlannedRegion, ...]
    alone: tvm.IRModule = field(repr=False)
    together: tvm.IRModule = field(repr=False)
    precision: str = "float32"
    planned_for: str = ""

    @property
    def seconds(self) -> float:
        """The expected time of all regions."""
        return sum(region.prediction.seconds for region in self.regions)

    @property
    def alone_seconds(self) -> float:
        """The expected time of all operators of the regions one by one."""
        return sum(region.alone_seconds for region in self.regions)

    def to_json(self) -> dict[str, Any]:
        """Return the analysis as values of JSON."""
        return {
            "model": self.model,
            "target": self.cpu.name,
            "threads": self.cpu.cores,
            "l2_bytes": self.cpu.l2_bytes,
            "precision": self.cpu.activations,
            "planned_for": self.planned_for,
            "layers": [asdict(layer) for layer in self.layers],
            "regions": [_region_json(region) for region in self.regions],
        }


@dataclass(frozen=True)
class _Planned:
    """A model for a processor without regions and with them; `made` says what became of it."""

    cpu: CpuProfile
    alone: tvm.IRModule
    together: tvm.IRModule
    regions: tuple[PlannedRegion, ...]
    made: CompileReport


@one_at_a_time
def analyze(
    model: str | os.PathLike[str] | tvm.IRModule,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    target: str = "native",
    threads: int | None = None,
    columns: ColumnRows = "auto",
    overlap: OverlapOption = "auto",
    records: str | os.PathLike[str] | RecordedPlans | None = None,
    precision: PrecisionOption = "float32",
    calibration: Mapping[str, Any] | None = None,
    hints: Hints | None = None,
) -> Analysis:
    """Report on the layers, the operators and the regions of a model.

    Parameters
    ----------
    model, shapes, target, threads, columns, overlap, records, precision, calibration, hints
        As `tvm_sparse.compile` takes them. Open dimensions have the first sizes of `hints`.

    Returns
    -------
    Analysis

    Raises
    ------
    ModelError, InputError, TargetError, RecordsError
        As `tvm_sparse.compile`.
    """
    check_threads(threads)
    check_column_options(columns, overlap)
    if not isinstance(records, RecordedPlans):
        records = RecordedPlans.read(None if records is None else Path(records))
    imported = import_step(model, shapes)
    if imported is not None:
        precision = "float32"  # as decoders are computed
    cpu = processor(target, threads, precision)
    hinted = Hinted(model, None, {}) if imported else at_hints(model, shapes, hints)
    cpu = hinted.on(cpu)
    imported = imported or import_module(hinted.model, hinted.shapes, no_fallback(cpu.architecture))
    calibrated = calibration_for(cpu, model, shapes, hints, calibration)

    def planned_on(cpu: CpuProfile, lookups: Lookups | None) -> _Planned:
        found = pipeline.front(imported.mod, cpu, lookups, calibrated.keep_float32)
        planner = RegionPlanner(cpu, columns, overlap, found.plan_for)
        formed = tvm.transform.Sequential([FormRegions(cpu, planner=planner)])(found.mod)
        made = compile_report(formed, cpu, found.used, precision)
        return _Planned(cpu, found.mod, formed, tuple(planner.planned), made)

    plan = planned_on(cpu, records.known_on(cpu))
    if threads is None and not hinted.sizes and may_be_small(plan.together, plan.made, cpu):
        alone = planned_on(replace(cpu, cores=1), None)
        plan = alone if is_small(plan.made, alone.made) else plan
    operators = _operators(plan.together, plan.regions)
    numbers = {
        operator.name: operator.region for operator in operators if operator.region is not None
    }
    layers = explained(layers_of(plan.alone, numbers), calibrated.layers)
    name = "module" if isinstance(model, tvm.IRModule) else Path(model).stem
    why = f", not calibrated ({calibrated.refusal})" if calibrated.refusal else ""
    return Analysis(
        name, plan.cpu, layers, operators, plan.regions, plan.alone, plan.together,
        chosen(precision, cpu) + why, str(hinted),
    )  # fmt: skip


def alone_predictions(shape: RegionShape, cpu: CpuProfile) -> list[Prediction]:
    """Return the expected cost of each operator of a region by itself."""
    return [predict_alone(part(shape, i, i + 1), cpu) for i in range(len(shape.stages))]


def alone_bytes_moved(shape: RegionShape, cpu: CpuProfile) -> tuple[float, ...]:
    """Return the bytes that the operators of a region move one by one, in L1, L2, L3 and memory."""
    moved = (prediction.bytes_moved for prediction in alone_predictions(shape, cpu))
    return tuple(map(sum, zip(*moved, strict=True)))


def _region_json(region: PlannedRegion) -> dict[str, Any]:
    plan = asdict(region.plan) if region.plan else {"column_rows": None}
    return {
        "layers": region.layers,
        "operators": region.operators,
        **plan,
        **asdict(region.prediction),
        "alone_seconds": region.alone_seconds,
        "source": region.source,
        "stop": region.stop,
    }


def _operators(mod: tvm.IRModule, regions: Sequence[PlannedRegion]) -> tuple[OperatorReport, ...]:
    found: list[OperatorReport] = []
    makers: dict[relax.Var, tuple[int, ...]] = {}
    alone = {region.nodes[0].binding.var: i for i, region in enumerate(regions) if not region.plan}

    def read_by(value: relax.Expr) -> tuple[int, ...]:
        reads = (makers.get(var, ()) for var in relax.analysis.free_vars(value))
        return tuple(sorted({number for numbers in reads for number in numbers}))

    def append(binding: relax.VarBinding, name: str, operator: str, region: int | None) -> None:
        reads, shape = read_by(binding.value), static_shape(binding.var) or ()
        makers[binding.var] = (len(found),)
        found.append(OperatorReport(name, operator, shape, reads, region))

    for func in mod.functions.values():
        if not isinstance(func, relax.Function) or (func.attrs and REGION in func.attrs):
            continue
        for binding in (b for block in func.body.blocks for b in block.bindings):
            call, number = binding.value, alone.get(binding.var)
            if isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.GlobalVar):
                number = int(call.op.name_hint.removeprefix(f"{PREFIX}_"))
            if number is not None:
                region = regions[number]
                for node, stage in zip(region.nodes, region.shape.stages, strict=True):
                    append(node.binding, node.name, stage.name, number)
            elif isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.Op):
                operator = call.op.name.removeprefix("relax.").removeprefix("tvm_sparse.")
                append(binding, str(binding.var.name), operator, None)
            elif binding.var not in makers:  # a tuple, or an element of one
                makers[binding.var] = read_by(call)
    return tuple(found)

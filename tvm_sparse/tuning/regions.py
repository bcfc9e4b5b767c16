"""The regions of a model to tune, and the libraries that run them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sparse.columns.plans import ColumnPlan, PlanFor, Stops
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.compiling import one_at_a_time
from tvm_sparse.cpu.precision import PrecisionOption, processor
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.passes.regions.form_regions import PREFIX, FormRegions
from tvm_sparse.passes.regions.region_graph import Node
from tvm_sparse.passes.regions.region_planner import PlannedRegion, RegionPlanner
from tvm_sparse.records.best import plan_from_fields, plan_to_fields
from tvm_sparse.records.keys import key_of
from tvm_sparse.records.record import Key, Plan
from tvm_sparse.tuning.devices import Arguments, Build
from tvm_sparse.tuning.libraries import build_module, common_lanes, write_arguments
from tvm_sparse.tuning.part import Part, Setting, name_of
from tvm_sparse.tuning.ranking import RegionCandidate, region_candidates
from tvm_sparse.tuning.task import Task


@dataclass(frozen=True)
class RegionSubject:
    """A region by itself, written to files from which its kernels are built and run.

    Attributes
    ----------
    shape : RegionShape
        The stages, as planning sees them.
    folder : Path
        The folder of the files.
    target : str
        The name of the CPU profile.
    threads : int
        The number of threads that the kernels run on.
    precision : DType
        The type of the model's activations.
    """

    shape: RegionShape
    folder: Path
    target: str
    threads: int
    precision: DType = DType.FLOAT32

    def build(self, plan: Plan) -> Build:
        """Return how the library of a plan is built."""
        arguments = {
            "module": str(self.folder / "region.json"),
            "plan": dict(plan),
            "target": self.target,
            "threads": self.threads,
            "precision": self.precision,
        }
        return Build(f"{__name__}:build_region_library", arguments)

    def arguments(self, weights: Sequence[np.ndarray]) -> Arguments:
        """Write the arguments of the kernels: random panels, and the region's own weights."""
        main = _read(str(self.folder / "region.json"))["main"]
        cpu = processor(self.target, self.threads, self.precision)
        return write_arguments(
            self.folder,
            main,
            lambda ty: common_lanes(int(ty.shape[-1]), cpu),
            weights,
            self.precision,
        )


@one_at_a_time
def form_regions(
    mod: tvm.IRModule, cpu: CpuProfile, least_gain: float, plan_for: PlanFor | None = None
) -> tuple[tvm.IRModule, dict[str, RegionShape]]:
    """Form the regions of a module.

    Parameters
    ----------
    mod : IRModule
        A module on panels, before `FormRegions`.
    cpu : CpuProfile
        The processor.
    least_gain : float
        As `RegionPlanner` takes it.
    plan_for : callable, optional
        Looks up plans that were measured; by default the cost model alone decides.

    Returns
    -------
    IRModule
        `mod` with regions.
    dict of str to RegionShape
        The regions, by the names of their functions.
    """
    planner = RegionPlanner(cpu, "auto", "auto", plan_for, least_gain)
    mod = tvm.transform.Sequential([FormRegions(cpu, planner=planner)])(mod)
    formed = enumerate(planner.planned)
    return mod, {f"{PREFIX}_{i}": region.shape for i, region in formed if region.plan is not None}


@one_at_a_time
def write_region(mod: tvm.IRModule, name: str, folder: Path) -> list[np.ndarray]:
    """Write the operators of a region as ``main`` to ``region.json``, and return its weights.

    In ``main`` the weights are parameters, behind the panels.
    """
    func = mod[name]
    weights: dict[tvm.ir.GenericConst, relax.Var] = {}

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, tvm.ir.GenericConst) and expr not in weights:
            weights[expr] = relax.Var(f"weight_{len(weights)}", expr.ty)

    relax.analysis.post_order_visit(func, visit)
    main = _Parameters(weights).visit_expr(func)
    params = [*main.params, *weights.values()]
    main = relax.Function(params, main.body, main.ret_ty, main.is_pure)
    main = main.with_attr("global_symbol", "main")
    (folder / "region.json").write_text(tvm.ir.save_json(tvm.IRModule({"main": main})))
    return [weight.value.numpy() for weight in weights]


@mutator
class _Parameters(PyExprMutator):
    """Replaces constants by parameters."""

    def __init__(self, params: Mapping[tvm.ir.GenericConst, relax.Var]) -> None:
        super().__init__()
        self._params = params

    def visit_constant_(self, const: tvm.ir.GenericConst) -> relax.Expr:
        return self._params[const]


def build_region_library(
    library: Path, module: str, plan: Plan, target: str, threads: int, precision: PrecisionOption
) -> None:
    """Build a region under a plan, as the function ``main`` of a library for the virtual machine.

    The function has the parameters of ``main`` in `module`.
    """
    cpu = processor(target, threads, precision)
    chosen = plan_from_fields(plan)
    assert chosen is not None
    regions = FormRegions(cpu, planner=_Given(cpu, chosen))
    build_module(tvm.transform.Sequential([regions])(_read(module)), library, cpu)


class _Given(RegionPlanner):
    """Cuts the only run of operators according to a given plan."""

    def __init__(self, cpu: CpuProfile, plan: ColumnPlan | Stops) -> None:
        super().__init__(cpu, "auto", "auto", None)
        self._plan = plan

    def partition(self, nodes: Sequence[Node]) -> list[PlannedRegion]:
        """Return the regions."""
        return self.whole(nodes, self._plan)


@functools.lru_cache(maxsize=1)
def _read(path: str) -> tvm.IRModule:
    return tvm.ir.load_json(Path(path).read_text())


@one_at_a_time
def region_parts(
    formed: Sequence[tuple[tvm.IRModule, Mapping[str, RegionShape]]],
    setting: Setting,
    done: Collection[Key] = (),
) -> list[Part]:
    """Return a part for each structure of a model's regions, the most time-consuming first.

    Parameters
    ----------
    formed : sequence of (IRModule, mapping of str to RegionShape)
        The model in regions, as `form_regions` returns it; the first of them has the regions that
        the compiler would form.
    setting : Setting
        The setting of the run.
    done : collection of Key
        The regions to leave out.
    """
    cpu = setting.cpu
    regions: dict[Key, _Region] = {}
    for i, (mod, named) in enumerate(formed):
        keys = {name: key_of(shape, cpu) for name, shape in named.items()}
        counts = Counter(keys.values())
        for name, key in keys.items():
            if key not in regions:
                plans = region_candidates(named[name], cpu, setting.hopeless, is_formed=i == 0)
                regions[key] = _Region(mod, name, named[name], counts[key], plans)
    mean = float(np.mean([region.seconds for region in regions.values()])) if regions else 0.0
    found: list[Part] = []
    for key, region in sorted(regions.items(), key=lambda item: -item[1].seconds):
        if key in done:
            continue
        chosen = tuple(region.plans[: setting.share(region.seconds, mean) + 1])
        folder = setting.own_folder()
        weights = write_region(region.mod, region.name, folder)
        subject = RegionSubject(region.shape, folder, setting.target, cpu.cores, cpu.activations)
        task = Task(
            name_of(key),
            key,
            tuple(plan_to_fields(candidate.plan) for candidate in chosen),
            subject.build,
            subject.arguments(weights),
            references=(plan_to_fields(Stops.everywhere(len(region.shape.stages))),),
        )
        found.append(Part("regions", task, region.count, region.shape, chosen))
    return found


@dataclass(frozen=True)
class _Region:
    """A region of a module, how often it occurs, and the plans to try."""

    mod: tvm.IRModule
    name: str
    shape: RegionShape
    count: int
    plans: Sequence[RegionCandidate]

    @property
    def seconds(self) -> float:
        return self.count * self.plans[0].seconds

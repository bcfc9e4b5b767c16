"""The plans of a region that are worth a trial, and the kernels that run them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from tvm_sparse import column_cost_model, targets
from tvm_sparse.columns import ColumnPlan, RegionShape
from tvm_sparse.linking import link, link_command
from tvm_sparse.measuring import Arguments, Build
from tvm_sparse.passes.form_regions import REGION, FormRegions
from tvm_sparse.passes.lower_regions import LowerRegions
from tvm_sparse.passes.vectorize_math import VectorizeMath
from tvm_sparse.recorded_plans import from_fields, to_fields
from tvm_sparse.records import Plan
from tvm_sparse.targets import CpuProfile


@dataclass(frozen=True)
class Candidate:
    """A plan and what it is expected to cost.

    Attributes
    ----------
    plan : ColumnPlan
        The plan.
    seconds : float
        The cost model's prediction.
    """

    plan: ColumnPlan
    seconds: float


def candidates(region: RegionShape, cpu: CpuProfile, hopeless: float) -> list[Candidate]:
    """Return the plans to try: the cost model's choice, then the best of every column size.

    After them the second best of every column size, and so on: neighbouring steps of the same
    columns differ too little to spend the first trials on them. Plans that are expected to take
    `hopeless` times as long as the best are left out.
    """
    plans = column_cost_model.candidates(region, cpu)
    known = [Candidate(p, column_cost_model.predict(region, p, cpu).seconds) for p in plans]
    known.sort(key=lambda candidate: candidate.seconds)
    seen: dict[int, int] = {}
    ranked = []
    for candidate in known:
        if candidate.seconds <= hopeless * known[0].seconds:
            rank = seen.get(candidate.plan.column_rows, 0)
            seen[candidate.plan.column_rows] = rank + 1
            ranked.append((rank, candidate))
    return [candidate for _, candidate in sorted(ranked, key=lambda pair: pair[0])]


@dataclass(frozen=True)
class RegionKernel:
    """A region by itself, written to files from which its kernels are built and run.

    Attributes
    ----------
    shape : RegionShape
        For the planning.
    folder : Path
        Where the files are.
    target : str
        Name of the CPU profile.
    threads : int
        Threads of the kernels.
    """

    shape: RegionShape
    folder: Path
    target: str
    threads: int

    def build(self, plan: Plan) -> Build:
        """Tell how the library of a plan is built."""
        arguments = {
            "module": str(self.folder / "region.json"),
            "plan": dict(plan),
            "target": self.target,
            "threads": self.threads,
        }
        return Build(f"{__name__}:build_region", arguments)

    def arguments(self) -> Arguments:
        """Write what the kernels are called with: random panels, the region's own weights."""
        mod = _read(str(self.folder / "region.json"))
        cpu = processor(self.target, self.threads)
        (call,) = _calls(tvm.transform.Sequential([LowerRegions(cpu)])(mod)["main"])
        rng = np.random.default_rng(0)
        arrays = [_array(value, rng) for value in call.args[1].fields]
        results = [call.ty] if isinstance(call.ty, relax.TensorType) else list(call.ty.fields)
        shapes = [[int(n) for n in ty.shape] for ty in results]
        outputs = tuple(
            (len(arrays) + i, _common_lanes(shape[-1], cpu)) for i, shape in enumerate(shapes)
        )
        arrays += [np.zeros(shape, "float32") for shape in shapes]
        path = self.folder / "arguments.npz"
        np.savez(path, *arrays)
        return Arguments(path, outputs)


def form_regions(mod: tvm.IRModule, cpu: CpuProfile) -> tuple[tvm.IRModule, dict[str, RegionShape]]:
    """Form the regions of a module by the cost model alone.

    Returns
    -------
    IRModule
        `mod` with regions.
    dict of str to RegionShape
        What they are, by the names of their functions.
    """
    shapes: list[RegionShape] = []

    def note(shape: RegionShape) -> None:
        shapes.append(shape)

    mod = tvm.transform.Sequential([FormRegions(cpu, plan_for=note)])(mod)
    names = [gvar.name_hint for gvar, func in mod.functions_items() if _is_region(func)]
    names.sort(key=lambda name: int(name.rpartition("_")[2]))
    return mod, dict(zip(names, shapes, strict=True))


def write_region(mod: tvm.IRModule, name: str, folder: Path) -> None:
    """Write the function of a region, and a ``main`` that calls it, to ``region.json``."""
    region = mod.get_global_var(name)
    func = mod[region]
    builder = relax.BlockBuilder(tvm.IRModule({region: func}))
    params = [relax.Var(param.name, param.ty) for param in func.params]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(relax.Call(region, params))
        builder.emit_func_output(result)
    (folder / "region.json").write_text(tvm.ir.save_json(builder.get()))


def build_region(library: Path, module: str, plan: Plan, target: str, threads: int) -> None:
    """Build the kernel of a plan as the function ``main`` of a library."""
    cpu = processor(target, threads)
    chosen = from_fields(plan)
    assert chosen is not None
    mod = _with_plan(_read(module), chosen)
    mod = tvm.transform.Sequential([LowerRegions(cpu), VectorizeMath()])(mod)
    (call,) = _calls(mod["main"])
    kernel = mod[call.args[0]].with_attr("global_symbol", "main")
    # Scratch memory of regions is as small as can be; TVM takes long to find that out.
    with tvm.transform.PassContext(disabled_pass=["s_tir.CompactBufferAllocation"]):
        executable = tvm.compile(tvm.IRModule({"main": kernel}), target=cpu.to_target())
    command = link_command(cpu.architecture)
    executable.export_library(str(library), fcompile=functools.partial(link, command))


def processor(target: str, threads: int | None) -> CpuProfile:
    """Return the profile that `tvm_sparse.compile` plans for.

    Raises
    ------
    TargetError
        If `target` is unknown.
    """
    cpu = targets.profile(target)
    return CpuProfile.from_target(replace(cpu, cores=threads or cpu.cores).to_target())


@functools.lru_cache(maxsize=1)
def _read(path: str) -> tvm.IRModule:
    return tvm.ir.load_json(Path(path).read_text())


def _with_plan(mod: tvm.IRModule, plan: ColumnPlan) -> tvm.IRModule:
    functions = {}
    for gvar, func in mod.functions_items():
        if _is_region(func):
            func = func.with_attr(REGION, {**func.attrs[REGION], **to_fields(plan)})
        functions[gvar] = func
    return tvm.IRModule(functions)


def _common_lanes(lanes: int, cpu: CpuProfile) -> int:
    """Return how many lanes hold no padding, which no plan needs to compute: whatever the width."""
    return lanes - (cpu.vector_lanes if lanes > cpu.vector_lanes else 8) + 1


def _is_region(func: tvm.ir.BaseFunc) -> bool:
    return isinstance(func, relax.Function) and bool(func.attrs) and REGION in func.attrs


def _calls(func: relax.Function) -> list[relax.Call]:
    bindings = [binding for block in func.body.blocks for binding in block.bindings]
    return [
        binding.value
        for binding in bindings
        if isinstance(binding.value, relax.Call) and binding.value.op == _CALL_TIR
    ]


_CALL_TIR = tvm.ir.Op.get("relax.call_tir")


def _array(value: relax.Expr, rng: np.random.Generator) -> np.ndarray:
    """Return a weight as it is, and for an activation random values."""
    if isinstance(value, tvm.ir.GenericConst):
        return value.value.numpy()
    shape, dtype = [int(n) for n in value.ty.shape], np.dtype(str(value.ty.dtype))
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return np.ones(shape, dtype)

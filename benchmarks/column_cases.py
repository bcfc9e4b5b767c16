"""The cases that the benchmarks of tensor columns run: models by name, and regions of them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from sized_models import sized
from tvm import relax

import tvm_sparse
from tvm_sparse.bench.arrays import output_error
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.cpu.profile import CpuProfile, native
from tvm_sparse.errors import TvmSparseError
from tvm_sparse.frontends.load import import_module
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import static_shape
from tvm_sparse.passes.regions.convolve_images import convolve_images
from tvm_sparse.passes.regions.form_regions import REGION, FormRegions
from tvm_sparse.passes.regions.region_graph import order_of, region_of, runs_of
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.runtime.engine import Engine

MODES: dict[str, dict[str, Any]] = {
    "off": {"columns": "off"},
    "auto": {},
    "recompute": {"overlap": "recompute"},
    "carry": {"overlap": "carry"},
}
MODELS = (
    "conv-stack-95",
    "mobilenet-v1-90",
    "mobilenet-v2-90",
    "resnet50-95",
    "efficientnet-b0-90",
    "vit-b-16-90",
    "yolov5s-85",
    "yolov8n-85",
    "bert-base-95",
    "bert-base-95:8x384",
)


@dataclass(frozen=True)
class Case:
    """A model to compile and run, or a region of one.

    Attributes
    ----------
    name : str
        The name in the tables.
    source : Path or IRModule
        The ONNX file or the module to compile.
    shapes : mapping, optional
        Shapes of the inputs of an ONNX file.
    """

    name: str
    source: Path | tvm.IRModule
    shapes: Mapping[str, Sequence[int]] | None

    def library(self, variant: str, cache: Path) -> Path:
        """Return the file of the library that was built in a mode, or in another variant."""
        return cache / f"{re.sub('[ :]', '-', self.name)}.{variant}.so"

    def build(self, variant: str, cache: Path, threads: int | None, **options: Any) -> None:
        """Compile it with some arguments of `tvm_sparse.compile`."""
        start = time.perf_counter()
        engine = tvm_sparse.compile(
            self.source, self.shapes, threads=threads, records=RecordedPlans(), **options
        )
        engine.save(self.library(variant, cache))
        seconds = time.perf_counter() - start
        print(f"{self.name}, {variant}: built in {seconds:.0f} s", file=sys.stderr, flush=True)

    def load(self, variant: str, cache: Path, threads: int | None) -> Engine:
        """Return the engine of a library that was built before."""
        path = self.library(variant, cache)
        if not path.exists():
            raise TvmSparseError(f"{path} is not there: run with --build first")
        return tvm_sparse.load(path, threads)


def network(name: str, cache: Path) -> Case:
    """Return a model as `sized` names it."""
    return Case(name, *sized(name, cache))


def with_region(case: Case, threads: int | None) -> list[Case]:
    """Return a model, and the region of it that is expected to save most, if there is one."""
    region = best_region(case, replace(native(), cores=threads or native().cores))
    return [case, *([Case(f"{case.name} region", region, None)] if region is not None else [])]


def best_region(case: Case, cpu: CpuProfile) -> tvm.IRModule | None:
    """Return the function of the region that is expected to save most, as a module of its own."""
    mod = FormRegions(cpu)(_on_panels(case, cpu))
    regions = [f for _, f in mod.functions_items() if f.attrs and REGION in f.attrs]
    if not regions:
        return None
    best = max(regions, key=lambda f: f.attrs[REGION]["alone_seconds"] - f.attrs[REGION]["seconds"])
    func = relax.utils.copy_with_new_vars(best.without_attr(REGION))
    mod = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return rewrite_calls(mod, _with_layout_changes)


def in_place(case: Case, cpu: CpuProfile) -> Case:
    """Return a model, or a region of one, whose convolutions read and write images."""
    return replace(case, source=convolve_images(_on_panels(case, cpu)), shapes=None)


def _on_panels(case: Case, cpu: CpuProfile) -> tvm.IRModule:
    """Return the module of a case as it is before regions are formed."""
    return pipeline.front(import_module(case.source, case.shapes).mod, cpu).mod


def stages_alone(mod: tvm.IRModule, cpu: CpuProfile) -> Iterator[RegionShape]:
    """Yield every operator of a network on panels that could be in a region, by itself."""
    for block in mod["main"].body.blocks:
        for item in runs_of(order_of(block, cpu)):
            for node in item if isinstance(item, list) else ():
                region = region_of([node], cpu)
                assert region is not None  # it can be a stage
                yield region.shape


def _with_layout_changes(call: relax.Call, _lookup: Lookup, emit: Emit) -> relax.Expr | None:
    """Return a convolution of images with the layout changes that `columns="off"` makes."""
    if not is_call_to(call, *operators.CONVOLUTIONS):
        return None
    conv, args = operators.conv_of(call), list(call.args)
    if len(args[0].ty.shape) == 4:
        args[0] = emit(operators.image_to_panels(args[0], conv.lanes_in))
    attrs = {name: value for name, value in call.attrs.items() if name != "to_image"}
    apart = relax.Call(call.op, args, tvm.ir.DictAttrs(attrs))
    if not operators.is_image(call):
        return apart
    return operators.panels_to_image(emit(apart), static_shape(call) or ())


def check_outputs(
    case: Case, engines: Mapping[str, Engine], inputs: Mapping[str, np.ndarray]
) -> None:
    """Compare the outputs of engines with those of the first one.

    Outputs of a region are not compared: lanes that hold no pixel have any finite value.

    Raises
    ------
    TvmSparseError
        If they differ.
    """
    if not isinstance(case.source, Path):
        return
    first, *others = engines
    want = list(engines[first].run(inputs).values())
    for name in others:
        error = output_error(list(engines[name].run(inputs).values()), want)
        if not error < 1e-4:
            raise TvmSparseError(f"{case.name}, {name}: differs from {first} by {error:.1e}")


def race(
    engines: Mapping[str, Engine], inputs: Mapping[str, np.ndarray], seconds: float, rounds: int
) -> dict[str, np.ndarray]:
    """Return the seconds of every run of each engine; the engines take turns.

    Parameters
    ----------
    engines : mapping of str to Engine
        The engines, by name.
    inputs : mapping of str to array
        The inputs of all engines.
    seconds : float
        About the length of the whole race.
    rounds : int
        Turns of each engine. In each turn, an engine runs at least three times, after a run that
        does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in engines}
    burst = seconds / (rounds * len(engines))
    for _ in range(rounds):
        for name, engine in engines.items():
            engine.run(inputs)
            least, end = len(times[name]) + 3, time.perf_counter() + burst
            while len(times[name]) < least or time.perf_counter() < end:
                start = time.perf_counter()
                engine.run(inputs)
                times[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in times.items()}

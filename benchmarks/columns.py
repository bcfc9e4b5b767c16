"""Tensor columns against one operator after another, with the same kernels.

    python benchmarks/columns.py conv-stack-95 mobilenet-v1-90   # build, then time in turns
    python benchmarks/columns.py resnet50-95:8                   # a batch of 8
    python benchmarks/columns.py --build                         # build all models, time nothing
    python benchmarks/columns.py --built resnet50-95             # time what was built before
    python benchmarks/columns.py --traffic                       # misses of the L2 cache, simulated
    python benchmarks/columns.py --memory                        # peak memory, batch 8

All libraries of a model are loaded by one process and run in turns, a burst of each; ratios are
`off` over the others, of the fastest runs and of the medians. A line "region" is the region that is
expected to save most, without the layout changes around it: panels in, panels out.

The traffic is counted by valgrind (`apt-get install valgrind`, and a C++ compiler), as

    valgrind --tool=cachegrind --cache-sim=yes --LL=BYTES,WAYS,64 run REGION.so --input x.bin ...

with the private cache of this machine for LL: the difference between a run of two inferences and a
run of one. valgrind does not know AVX-512, so it is the code for haswell, planned for the caches of
this machine and for one thread. `run` is examples/cpp/main.cc.

Models have seeded weights and are kept, with the libraries, in .cache/columns.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import column_traffic
import numpy as np
import tvm
from tvm import relax

import tvm_sparse
from tvm_sparse import models
from tvm_sparse.api import import_module
from tvm_sparse.benchmarking import output_error, random_inputs
from tvm_sparse.engine import Engine
from tvm_sparse.errors import TvmSparseError
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.form_regions import REGION, FormRegions
from tvm_sparse.peers import OURS, PeerProcess
from tvm_sparse.recorded_plans import RecordedPlans
from tvm_sparse.targets import CpuProfile, native

MODES: dict[str, dict[str, Any]] = {
    "off": {"columns": "off"},
    "auto": {},
    "recompute": {"overlap": "recompute"},
    "carry": {"overlap": "carry"},
}
BERT = {name: (8, 384) for name in ("input_ids", "attention_mask", "token_type_ids")}
MODELS: dict[str, Mapping[str, Sequence[int]] | None] = {
    "conv-stack-95": None,
    "mobilenet-v1-90": None,
    "resnet50-95": None,
    "efficientnet-b0-90": None,
    "vit-b-16-90": None,
    "yolov5s-85": None,
    "yolov8n-85": None,
    "bert-base-95": BERT,
}
"""Models, and shapes that are not their recipes'."""
MEMORY_MODEL, MEMORY_BATCH = "resnet50-95", 8
TRAFFIC_MODEL = "conv-stack-95"


@dataclass(frozen=True)
class Case:
    """Something to time: a model, or a region of it.

    Attributes
    ----------
    name : str
        For people.
    source : Path or IRModule
        What is compiled.
    shapes : mapping, optional
        Of an ONNX file's inputs.
    """

    name: str
    source: Path | tvm.IRModule
    shapes: Mapping[str, Sequence[int]] | None

    def library(self, mode: str, cache: Path) -> Path:
        """Return where its library of a mode is kept."""
        return cache / f"{re.sub('[ :]', '-', self.name)}.{mode}.so"


def main() -> None:
    """Parse the command line, build, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each line of the table")
    parser.add_argument("--rounds", type=int, default=8)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--build", action="store_true", help="time nothing")
    chosen.add_argument("--built", action="store_true", help="time what --build left")
    chosen.add_argument("--traffic", action="store_true", help="misses of the L2 cache, simulated")
    chosen.add_argument("--memory", action="store_true", help="peak memory of a process")
    parser.add_argument("--cache", type=Path, default=Path(".cache/columns"))
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    try:
        if arguments.traffic:
            traffic(arguments.models or [TRAFFIC_MODEL], arguments.cache)
        elif arguments.memory:
            memory(arguments.models or [MEMORY_MODEL], arguments.cache, arguments.threads)
        else:
            compare(arguments)
    except TvmSparseError as error:
        sys.exit(f"error: {error}")


def compare(arguments: argparse.Namespace) -> None:
    """Build and time models and regions."""
    cases = [
        case
        for name in arguments.models or MODELS
        for case in cases_of(name, arguments.cache, arguments.threads)
    ]
    if not arguments.built:
        for case in cases:
            build(case, arguments.cache, arguments.threads)
    if arguments.build:
        return
    print("| model | off ms | auto ms | auto | of medians | recompute | carry |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case in cases:
        times = time_modes(case, arguments)
        off = times["off"]
        least = {mode: off.min() / seconds.min() for mode, seconds in times.items()}
        median = np.median(off) / np.median(times["auto"])
        print(
            f"| {case.name} | {1e3 * off.min():.2f} | {1e3 * times['auto'].min():.2f} "
            f"| {least['auto']:.2f}x | {median:.2f}x | {least['recompute']:.2f}x "
            f"| {least['carry']:.2f}x |",
            flush=True,
        )


def cases_of(name: str, cache: Path, threads: int | None) -> list[Case]:
    """Return a model, and the region of it that is expected to save most, if there is one."""
    model, _, batch = name.partition(":")
    made, path = models.recipe(model), cache / f"{model}.onnx"
    if not path.exists():
        made.build(path)
    shapes = MODELS.get(model) or made.shapes
    if batch:
        shapes = {key: (int(batch), *shape[1:]) for key, shape in shapes.items()}
    cpu = replace(native(), cores=threads or native().cores)
    region = best_region(path, shapes, cpu)
    return [
        Case(name, path, shapes),
        *([Case(f"{name} region", region, None)] if region is not None else []),
    ]


def best_region(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    cpu: CpuProfile,
) -> tvm.IRModule | None:
    """Return the function of the region that is expected to save most, as a module of its own."""
    phases = [*pipeline.canonicalize(), *pipeline.sparsify(cpu), FormRegions(cpu)]
    with cpu.to_target():
        mod = tvm.transform.Sequential(phases)(import_module(path, shapes).mod)
    regions = [f for _, f in mod.functions_items() if f.attrs and REGION in f.attrs]
    if not regions:
        return None
    best = max(regions, key=lambda f: f.attrs[REGION]["alone_seconds"] - f.attrs[REGION]["seconds"])
    func = relax.utils.copy_with_new_vars(best.without_attr(REGION))
    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})


def build(case: Case, cache: Path, threads: int | None) -> None:
    """Compile a case in all modes."""
    for mode, options in MODES.items():
        start = time.perf_counter()
        engine = tvm_sparse.compile(
            case.source, case.shapes, threads=threads, records=RecordedPlans(), **options
        )
        engine.save(case.library(mode, cache))
        seconds = time.perf_counter() - start
        print(f"{case.name}, {mode}: built in {seconds:.0f} s", file=sys.stderr, flush=True)


def time_modes(case: Case, arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Return the seconds of every run in each mode; the modes take turns."""
    engines = {}
    for mode in MODES:
        path = case.library(mode, arguments.cache)
        if not path.exists():
            raise TvmSparseError(f"{path} is not there: run with --build first")
        engines[mode] = tvm_sparse.load(path, arguments.threads)
    inputs = random_inputs(engines["off"].inputs)
    want = list(engines["off"].run(inputs).values())
    # Lanes of panels that hold no column have any finite value, so regions are not compared.
    for mode, engine in engines.items() if isinstance(case.source, Path) else ():
        error = output_error(list(engine.run(inputs).values()), want)
        if not error < 1e-4:
            raise TvmSparseError(f"{case.name}, {mode}: differs from off by {error:.1e}")
    del want
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    burst = arguments.seconds / (arguments.rounds * len(MODES))
    for _ in range(arguments.rounds):
        for mode, engine in engines.items():
            times[mode] += run_for(engine, inputs, burst)
    return {mode: np.array(seconds) for mode, seconds in times.items()}


def run_for(engine: Engine, inputs: Mapping[str, np.ndarray], seconds: float) -> list[float]:
    """Return the times of runs, three at least, after one that does not count."""
    engine.run(inputs)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        engine.run(inputs)
        times.append(time.perf_counter() - start)
    return times


def memory(names: Sequence[str], cache: Path, threads: int | None) -> None:
    """Print the peak memory of processes that load a library and run it."""
    print("| model | batch | off MB | auto MB |")
    print("| --- | ---: | ---: | ---: |")
    for name in names:
        made, path = models.recipe(name), cache / f"{name}.onnx"
        if not path.exists():
            made.build(path)
        shapes = {key: (MEMORY_BATCH, *shape[1:]) for key, shape in made.shapes.items()}
        peaks = []
        for mode in ("off", "auto"):
            engine = tvm_sparse.compile(
                path, shapes, threads=threads, records=RecordedPlans(), **MODES[mode]
            )
            library, arrays = cache / f"memory.{mode}.so", cache / "memory.npz"
            engine.save(library)
            inputs = random_inputs(engine.inputs)
            np.savez(arrays, *inputs.values())
            with PeerProcess(OURS) as process:
                process.call("load", path=str(library), threads=engine.threads)
                process.call("inputs", path=str(arrays), names=list(inputs))
                process.call("run", seconds=0.0)
                peaks.append(process.call("memory")["peak_bytes"])
        print(f"| {name} | {MEMORY_BATCH} | {peaks[0] / 1e6:.0f} | {peaks[1] / 1e6:.0f} |")


def traffic(names: Sequence[str], cache: Path) -> None:
    """Print the misses of the private cache of regions, one by one and as columns."""
    column_traffic.check_tools()
    cpu = column_traffic.processor()
    print(f"L2 of {cpu.l2_bytes // 1024} KB, code for {cpu.mcpu}, one thread")
    print("| region | mode | reads missed | writes missed | MB | against off |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name in names:
        made, path = models.recipe(name), cache / f"{name}.onnx"
        if not path.exists():
            made.build(path)
        region = best_region(path, MODELS.get(name) or made.shapes, cpu)
        if region is None:
            raise TvmSparseError(f"{name}: the cost model forms no region")
        off = 0
        for mode, options in MODES.items():
            reads, writes = column_traffic.misses(region, cpu, options, cache)
            off = off or reads + writes
            print(
                f"| {name} | {mode} | {reads} | {writes} | {64e-6 * (reads + writes):.1f} "
                f"| {off / (reads + writes):.2f}x fewer |",
                flush=True,
            )


if __name__ == "__main__":
    main()

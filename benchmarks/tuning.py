"""Tuned plans against the cost model's, and the tuner against an exhaustive sweep.

    python benchmarks/tuning.py                          # tune models, then race both libraries
    python benchmarks/tuning.py resnet50-95 --level normal
    python benchmarks/tuning.py bert-base-95:8x384       # 8 sequences of 384 tokens
    python benchmarks/tuning.py --sweep                  # one region: all plans

Models are built once, with seeded weights, and kept in .cache/models. Records are kept in
.cache/tuning: what was measured is not measured again.
"""

from __future__ import annotations

import argparse
import filecmp
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx.helper import make_node
from rich.console import Console
from scripts import run_script
from sized_models import sized

from tvm_sparse import compiler
from tvm_sparse.bench.arrays import random_inputs
from tvm_sparse.bench.peers import OURS, PeerProcess
from tvm_sparse.cpu.precision import processor
from tvm_sparse.frontends import load
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.regions.region_planner import LEAST_GAIN
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.records.record import Plan
from tvm_sparse.testing.models import pruned, write_onnx
from tvm_sparse.tuning import regions, trials, tune
from tvm_sparse.tuning.devices import Builders, Device
from tvm_sparse.tuning.part import Setting
from tvm_sparse.tuning.task import Store, Task

MODELS = (
    "resnet50-95",
    "mobilenet-v1-90",
    "mobilenet-v2-90",
    "efficientnet-b0-90",
    "yolov5s-320-85",
    "vit-b-16-90:8",
    "bert-base-95:8x384",
)
ROUNDS, SECONDS = 12, 0.6
"""Processes of each library, and the seconds that each runs."""

RECORDS = Path(".cache/tuning")


def main() -> None:
    """Parse the command line, tune, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL[:SIZES]")
    parser.add_argument("--level", default="quick", choices=tune.LEVELS)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    arguments = parser.parse_args()
    RECORDS.mkdir(parents=True, exist_ok=True)
    if arguments.sweep:
        sweep(arguments.threads)
        return
    heads = ("layers", "regions", "trials", "tuning s", "cost model ms", "tuned ms", "faster")
    print(f"| model | {' | '.join(heads)} | of medians |")
    print(f"| --- | {'---: | ' * len(heads)}--- |")
    for name in arguments.models:
        print(compare(name, arguments.cache, arguments.level, arguments.threads), flush=True)


def compare(name: str, cache: Path, level: tune.Level, threads: int | None) -> str:
    """Tune a model and race the libraries without and with records; returns a row of the table."""
    path, shapes = sized(name, cache)
    start = time.perf_counter()
    records = RECORDS / f"{name}.jsonl"
    tuned = tune.tune(path, shapes, threads=threads, level=level, records=records)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        libraries = (folder / "default.so", folder / "tuned.so")
        both = (RecordedPlans(), RecordedPlans.read(records))
        for library, plans in zip(libraries, both, strict=True):
            engine = compiler.compile(path, shapes, threads=threads, records=plans)
            engine.save(library)
        if filecmp.cmp(*libraries, shallow=False):
            result = "| | kept | | |"  # a race would only tell how much equal libraries differ
        else:
            inputs = random_inputs(engine.inputs)
            np.savez(folder / "inputs.npz", *inputs.values())
            default, best = race(libraries, folder / "inputs.npz", list(inputs), engine.threads)
            gain, of_medians = default.min() / best.min(), np.median(default) / np.median(best)
            times = f"| {1e3 * default.min():.2f} | {1e3 * best.min():.2f} "
            result = f"{times}| {gain:.3f}x | {of_medians:.3f}x |"
    trials = sum(part.outcome.trials for part in tuned)
    kinds = [[part for part in tuned if part.kind == kind] for kind in ("layers", "regions")]
    return f"| {name} | {len(kinds[0])} | {len(kinds[1])} | {trials} | {seconds:.0f} {result}"


def race(
    libraries: Sequence[Path], inputs: Path, names: list[str], threads: int
) -> NDArray[np.float64]:
    """Return, for each library, the seconds of the fastest run of each of its processes.

    Where its memory lies makes a process up to 3 % faster or slower, so every round has new ones.
    """
    rounds = []
    for number in range(ROUNDS):
        order = (-1) ** number  # the last one begins every other round
        times = [fastest_run(library, inputs, names, threads) for library in libraries[::order]]
        rounds.append(times[::order])
    return np.array(rounds).T


def fastest_run(library: Path, inputs: Path, names: list[str], threads: int) -> float:
    """Return the seconds of the fastest run of a library in a process of its own."""
    with PeerProcess(OURS) as process:
        process.call("load", path=str(library), threads=threads)
        process.call("inputs", path=str(inputs), names=names)
        process.call("run", seconds=0.0)
        return min(process.call("run", seconds=SECONDS)["seconds"])


def sweep(threads: int | None) -> None:
    """Measure all plans of three convolutions, and compare the best with the tuner's pick."""
    rng, shape = np.random.default_rng(0), (1, 32, 320, 320)
    weights = {f"w{i}": pruned(rng, (32, 32, 3, 3), 0.05) for i in range(3)}
    nodes = [
        make_node("Conv", [source, f"w{i}"], [result], pads=[1, 1, 1, 1])
        for i, (source, result) in enumerate(["xa", "ab", "by"])
    ]
    cpu = processor("native", threads)
    with tempfile.TemporaryDirectory() as folder:
        model = write_onnx(Path(folder) / "m.onnx", nodes, {"x": shape}, ["y"], weights)
        mod = pipeline.front(load.import_module(model).mod, cpu).mod
        formed = regions.form_regions(mod, cpu, LEAST_GAIN)
        device, builders = Device(cpu.cores, cpu.l2_bytes), Builders(2)
        picks = []
        for level in ("quick", "thorough"):
            setting = Setting("native", cpu, Path(folder), *tune.LEVELS[level])
            (part,) = regions.region_parts([formed], setting)
            store = Store(RECORDS / f"sweep-{level}.jsonl")
            (outcome,) = trials.run([part.task], [device], builders, store)
            picks.append(outcome.best.plan)
            Console().print(f"{level}: {outcome.trials} trials, best {dict(outcome.best.plan)}")
        ratio = side_by_side(part.task, picks, device, builders)
        device.close()
        builders.close()
    print(f"the tuner's pick takes {ratio:.3f} times as long as the sweep's best")


def side_by_side(task: Task, plans: list[Plan], device: Device, builders: Builders) -> float:
    """Return how many times as long the first of two plans takes, as a ratio of minima."""
    if plans[0] == plans[1]:
        return 1.0
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            builders.submit(task.build(plan), Path(folder) / f"{i}.so")
            for i, plan in enumerate(plans)
        ]
        with device.session(task.arguments):
            for i, path in enumerate(paths):
                device.load(str(i), path.result())
            one, two = device.measure(["0", "1"], 50, 0)
    return min(one) / min(two)


if __name__ == "__main__":
    run_script(main)

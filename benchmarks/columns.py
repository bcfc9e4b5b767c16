"""Tensor columns against one operator after another, with the same kernels.

    python benchmarks/columns.py conv-stack-95 mobilenet-v1-90   # build, then time in turns
    python benchmarks/columns.py resnet50-95:8 bert-base-95:8x384   # a batch of 8; of 384 tokens
    python benchmarks/columns.py --build                         # build all models, time nothing
    python benchmarks/columns.py --built resnet50-95             # time what was built before
    python benchmarks/columns.py --roofline resnet50-95          # how much could be gained at most
    python benchmarks/columns.py --cores 1,2,4,16,64             # expected with other processors
    python benchmarks/columns.py --scaling                       # one thread against all
    python benchmarks/columns.py --traffic                       # misses of the L2 cache, simulated
    python benchmarks/columns.py --memory                        # peak memory, batch 8

One process loads all libraries of a model, which then run in turns, a burst of each. Ratios are the
time of `off` divided by that of another mode, for the fastest runs and for the medians. A line
"region" has the region that is expected to save most, run by itself.

valgrind counts the traffic (`apt-get install valgrind`, and a C++ compiler) with the command

    valgrind --tool=cachegrind --cache-sim=yes --LL=BYTES,WAYS,64 run REGION.so --input x.bin ...

where LL is the private cache of this machine. The traffic is the difference between a run of two
inferences and a run of one. valgrind does not know AVX-512, so the code is for haswell, planned for
the caches of this machine and for one thread. `run` is examples/cpp/main.cc.

Models have seeded weights and are kept, with the libraries, in .cache/columns.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import column_cores
import column_roofline
import column_traffic
import numpy as np
from column_cases import (
    MODELS,
    MODES,
    Case,
    best_region,
    check_outputs,
    network,
    race,
    with_region,
)
from scripts import run_script

from tvm_sparse.bench.arrays import random_inputs
from tvm_sparse.bench.peers import OURS, PeerProcess
from tvm_sparse.cpu.profile import native
from tvm_sparse.errors import TvmSparseError

DEFAULTS = {"traffic": ("conv-stack-95",), "memory": ("resnet50-95:8",)}
"""The default models of modes that do not take all of `MODELS`."""


def main() -> None:
    """Parse the command line, build, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each line of the table")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--whole", action="store_true", help="models only, none of their regions")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--roofline", action="store_true", help="the most that can be gained")
    chosen.add_argument("--cores", type=_numbers, metavar="1,2,4", help="expected with other cores")
    chosen.add_argument("--scaling", action="store_true", help="one thread against --threads")
    chosen.add_argument("--traffic", action="store_true", help="misses of the L2 cache, simulated")
    chosen.add_argument("--memory", action="store_true", help="peak memory of a process")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--build", action="store_true", help="time nothing")
    when.add_argument("--built", action="store_true", help="time what --build left")
    parser.add_argument("--cache", type=Path, default=Path(".cache/columns"))
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    mode = next((mode for mode in DEFAULTS if getattr(arguments, mode)), "")
    names = arguments.models or DEFAULTS.get(mode, MODELS)
    cases = [network(name, arguments.cache) for name in names]
    if arguments.traffic:
        traffic(cases, arguments.cache)
    elif arguments.memory:
        memory(cases, arguments.cache, arguments.threads)
    elif arguments.cores:
        column_cores.table(cases, native(), arguments.cores)
    elif arguments.scaling:
        scaling(cases, arguments)
    else:
        if not arguments.whole:
            cases = [one for case in cases for one in with_region(case, arguments.threads)]
        (bound if arguments.roofline else compare)(cases, arguments)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(map(int, text.split(",")))
    if min(numbers) < 1:
        raise ValueError(text)
    return numbers


def compare(cases: Sequence[Case], arguments: argparse.Namespace) -> None:
    """Build and time models and regions in all modes."""
    for case in [] if arguments.built else cases:
        for mode, options in MODES.items():
            case.build(mode, arguments.cache, arguments.threads, **options)
    if arguments.build:
        return
    print("| model | off ms | auto ms | auto | of medians | recompute | carry |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case in cases:
        engines = {mode: case.load(mode, arguments.cache, arguments.threads) for mode in MODES}
        inputs = random_inputs(engines["off"].inputs)
        check_outputs(case, engines, inputs)
        times = race(engines, inputs, arguments.seconds, arguments.rounds)
        off = times["off"]
        least = {mode: off.min() / seconds.min() for mode, seconds in times.items()}
        median = np.median(off) / np.median(times["auto"])
        print(
            f"| {case.name} | {1e3 * off.min():.2f} | {1e3 * times['auto'].min():.2f} "
            f"| {least['auto']:.2f}x | {median:.2f}x | {least['recompute']:.2f}x "
            f"| {least['carry']:.2f}x |",
            flush=True,
        )


def bound(cases: Sequence[Case], arguments: argparse.Namespace) -> None:
    """Build and time models and regions, also without traffic, and print the most to be gained."""
    for case in [] if arguments.built else cases:
        column_roofline.build(case, arguments.cache, arguments.threads)
    if not arguments.build:
        options = arguments.cache, arguments.threads, arguments.seconds, arguments.rounds
        column_roofline.compare(cases, *options)


def scaling(cases: Sequence[Case], arguments: argparse.Namespace) -> None:
    """Time models that were built for one thread against those for several."""
    many = arguments.threads or native().cores
    variants = {
        (mode, threads): f"{mode}-{threads}-threads"
        for mode in ("off", "auto")
        for threads in (1, many)
    }
    for case in [] if arguments.built else cases:
        for (mode, threads), variant in variants.items():
            case.build(variant, arguments.cache, threads, **MODES[mode])
    if arguments.build:
        return
    print(f"| model | off, 1 thread ms | {many} ms | | auto, 1 thread ms | {many} ms | |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case in cases:
        engines = {
            variant: case.load(variant, arguments.cache, threads)
            for (_, threads), variant in variants.items()
        }
        inputs = random_inputs(engines[variants["off", 1]].inputs)
        check_outputs(case, engines, inputs)
        times = race(engines, inputs, arguments.seconds, arguments.rounds)
        cells = []
        for mode in ("off", "auto"):
            one, all_ = (1e3 * times[variants[mode, threads]].min() for threads in (1, many))
            cells += [f"{one:.2f}", f"{all_:.2f}", f"{one / all_:.2f}x"]
        print(f"| {case.name} | {' | '.join(cells)} |", flush=True)


def memory(cases: Sequence[Case], cache: Path, threads: int | None) -> None:
    """Print the peak memory of processes that load a library and run it."""
    print("| model | off MB | auto MB |")
    print("| --- | ---: | ---: |")
    for case in cases:
        peaks = []
        for mode in ("off", "auto"):
            case.build("memory", cache, threads, **MODES[mode])
            engine = case.load("memory", cache, threads)
            inputs, arrays = random_inputs(engine.inputs), cache / "memory.npz"
            np.savez(arrays, *inputs.values())
            with PeerProcess(OURS) as process:
                path = str(case.library("memory", cache))
                process.call("load", path=path, threads=engine.threads)
                process.call("inputs", path=str(arrays), names=list(inputs))
                process.call("run", seconds=0.0)
                peaks.append(process.call("memory")["peak_bytes"])
        print(f"| {case.name} | {peaks[0] / 1e6:.0f} | {peaks[1] / 1e6:.0f} |", flush=True)


def traffic(cases: Sequence[Case], cache: Path) -> None:
    """Print the misses of the private cache of regions, one by one and as columns."""
    column_traffic.check_tools()
    cpu = column_traffic.processor()
    print(f"L2 of {cpu.l2_bytes // 1024} KB, code for {cpu.mcpu}, one thread")
    print("| region | mode | reads missed | writes missed | MB | by the cost model | against off |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for case in cases:
        region = best_region(case, cpu)
        if region is None:
            raise TvmSparseError(f"{case.name}: the cost model forms no region")
        off = 0
        for mode, options in MODES.items():
            reads, writes = column_traffic.misses(region, cpu, options, cache)
            off = off or reads + writes
            print(
                f"| {case.name} | {mode} | {reads} | {writes} | {64e-6 * (reads + writes):.1f} "
                f"| {1e-6 * column_traffic.expected(region, cpu, options):.1f} "
                f"| {off / (reads + writes):.2f}x fewer |",
                flush=True,
            )


if __name__ == "__main__":
    run_script(main)

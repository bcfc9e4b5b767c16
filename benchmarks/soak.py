"""Runs, loads and compiles a model again and again, as a server does that never stops.

    python benchmarks/soak.py                                  # about a minute
    python benchmarks/soak.py --calls 2000 --loads 20 --compiles 5 --shapes 200

The table says how the memory, the threads and the open files of the process have grown from the
first quarter of each kind of work to its end. The exit code is 1 if any grew beyond what the
rounding of memory by the system explains.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx.helper import make_node
from scripts import run_script

import tvm_sparse
from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.runtime.engine import Engine
from tvm_sparse.testing.models import pruned, write_onnx
from tvm_sparse.zoo.recipes import recipe

WIDTH = 512
"""Inputs and outputs of the layers; a library holds about 1 MB of weights."""

ALLOWED_BYTES = 8 << 20
"""The most that the memory of the process may grow in one kind of work."""

_CALLERS = 4


@dataclass(frozen=True)
class State:
    """What the process holds.

    Attributes
    ----------
    resident_bytes : int
        Memory that lies in RAM.
    threads, descriptors : int
        Threads, and open files.
    """

    resident_bytes: int
    threads: int
    descriptors: int

    @classmethod
    def now(cls, threads: int | None = None) -> State:
        """Return the state after everything that nobody refers to was freed.

        The threads of an engine that was forgotten take a moment to end, or some on a busy machine:
        it waits until there are `threads` again, or, if none are expected, until none ends.
        """
        gc.collect()
        found, still = _count("task"), 0
        for _ in range(400):
            is_settled = still == 8 if threads is None else found <= threads
            if is_settled:
                break
            time.sleep(0.05)
            before, found = found, _count("task")
            still = still + 1 if before == found else 0
        ctypes.CDLL(None).malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(pages * os.sysconf("SC_PAGESIZE"), found, _count("fd"))


def _count(kind: str) -> int:
    return len(list(Path(f"/proc/self/{kind}").iterdir()))


@dataclass(frozen=True)
class Growth:
    """How one kind of work changed the process.

    Attributes
    ----------
    work : str
        What was done.
    count : int
        How often it was done.
    seconds : float
        The time that it took.
    first, last : State
        The process after a quarter of the work, and after all of it.
    """

    work: str
    count: int
    seconds: float
    first: State
    last: State

    @property
    def grown_bytes(self) -> int:
        """By how much the memory grew."""
        return self.last.resident_bytes - self.first.resident_bytes

    @property
    def is_flat(self) -> bool:
        """Whether nothing grew."""
        return (
            self.grown_bytes <= ALLOWED_BYTES
            and self.last.threads <= self.first.threads
            and self.last.descriptors <= self.first.descriptors
        )


def repeat(work: str, count: int, once: Callable[[int], None]) -> Growth:
    """Do something `count` times, and compare the state after a quarter with that at the end."""
    start = time.perf_counter()
    for number in range(count // 4):
        once(number)
    first = State.now()
    for number in range(count // 4, count):
        once(number)
    last = State.now(first.threads)
    return Growth(work, count, time.perf_counter() - start, first, last)


def soak(
    calls: int, loads: int, compiles: int, shapes: int, threads: int | None = None
) -> list[Growth]:
    """Call an engine from one thread and from several, load libraries, and compile models.

    Parameters
    ----------
    calls, loads, compiles : int
        How often each is done.
    shapes : int
        Inputs of random shapes that one library runs.
    threads : int, optional
        Threads that an inference runs on; by default all usable cores.

    Raises
    ------
    AssertionError
        If an output changes.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, WIDTH)).astype("float32")
    with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as folder:
        models = [_write_model(Path(folder) / f"{i}.onnx", rng) for i in range(2)]
        libraries = [model.with_suffix(".so") for model in models]
        expected = []
        for model, library in zip(models, libraries, strict=True):
            with tvm_sparse.compile(model, threads=threads) as engine:
                engine.save(library)
                expected.append(engine.run([x])["y"])

        def check(engine: Engine, which: int) -> None:
            np.testing.assert_array_equal(engine.run([x])["y"], expected[which])

        def load(number: int) -> None:
            which = number % 2
            engine = tvm_sparse.load(libraries[which], threads)
            # Every third engine comes from a pickle; half of them are forgotten, not closed.
            engine = pickle.loads(pickle.dumps(engine)) if number % 3 == 0 else engine
            check(engine, which)
            if number % 4 < 2:
                engine.close()

        def compile(number: int) -> None:
            which = number % 2
            engine = tvm_sparse.compile(models[which], threads=threads)
            check(engine, which)
            engine.save(Path(folder) / "again.so")

        grown = []
        with (
            tvm_sparse.load(libraries[0], threads) as engine,
            ThreadPoolExecutor(_CALLERS) as callers,
        ):

            def call_from_threads(number: int) -> None:
                list(callers.map(lambda _: check(engine, 0), range(_CALLERS)))

            grown.append(repeat("calls", calls // 2, lambda number: check(engine, 0)))
            rounds = repeat("", calls // 2 // _CALLERS, call_from_threads)
            grown.append(
                Growth(
                    f"calls from {_CALLERS} threads",
                    rounds.count * _CALLERS,
                    rounds.seconds,
                    rounds.first,
                    rounds.last,
                )
            )
        grown.append(repeat("loads", loads, load))
        grown.append(_random_shapes(Path(folder), shapes, threads))
        grown.append(repeat("compiles and saves", compiles, compile))
    return grown


def _random_shapes(folder: Path, count: int, threads: int | None) -> Growth:
    """Run a transformer on sentences of random numbers and lengths; check every 50th output."""
    rng, model = np.random.default_rng(0), folder / "bert.onnx"
    recipe("bert-tiny-80").build(model)
    reference = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    with tvm_sparse.compile(model, threads=threads) as engine:

        def run(number: int) -> None:
            batch, sequence = (int(size) for size in rng.integers(1, (9, 65)))
            mask = np.arange(sequence) < rng.integers(1, sequence + 1, (batch, 1))
            given = {
                "input_ids": rng.integers(0, 1000, (batch, sequence)),
                "attention_mask": mask.astype("int64"),
                "token_type_ids": np.zeros((batch, sequence), "int64"),
            }
            outputs = engine.run(given)
            if number % 50 == 0:
                for name, want in zip(outputs, reference.run(list(outputs), given), strict=True):
                    np.testing.assert_allclose(outputs[name], want, rtol=1e-3, atol=1e-4)

        return repeat("random shapes", count, run)


def _write_model(path: Path, rng: np.random.Generator) -> Path:
    weights = {f"w{i}": pruned(rng, (WIDTH, WIDTH), 0.4) for i in range(2)}
    nodes = [
        make_node("MatMul", ["x", "w0"], ["h"]),
        make_node("Relu", ["h"], ["r"]),
        make_node("MatMul", ["r", "w1"], ["y"]),
    ]
    return write_onnx(path, nodes, {"x": [4, WIDTH]}, ["y"], weights)


def table(grown: list[Growth]) -> str:
    """Return the table of the documentation, in Markdown."""
    lines = [
        "| work | times | seconds | MB after a quarter | MB at the end | threads | open files |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind in grown:
        first, last = kind.first, kind.last
        memory = [f"{state.resident_bytes / 1e6:.1f}" for state in (first, last)]
        counts = [
            f"{before} -> {after}"
            for before, after in (
                (first.threads, last.threads),
                (first.descriptors, last.descriptors),
            )
        ]
        cells = [kind.work, f"{kind.count:,}", f"{kind.seconds:.0f}", *memory, *counts]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--loads", type=int, default=1000)
    parser.add_argument("--compiles", type=int, default=100)
    parser.add_argument("--shapes", type=int, default=10_000)
    parser.add_argument("--threads", type=int, help="of an inference (default: all cores)")
    given = parser.parse_args()
    grown = soak(given.calls, given.loads, given.compiles, given.shapes, given.threads)
    print(table(grown))
    grew = [kind.work for kind in grown if not kind.is_flat]
    if grew:
        print(f"grew during: {', '.join(grew)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)

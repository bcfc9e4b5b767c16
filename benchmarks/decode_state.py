"""The time of a step of a decoder, by the position of the token and the capacity of its caches.

    python benchmarks/decode_state.py                      # layers of a model of 1.1B, some minutes
    python benchmarks/decode_state.py --layers 22 --cache float32
    python benchmarks/decode_state.py --tiny               # shows that it runs

The weights are random, of 4 bits. A step should take the same time whatever the capacity is; the
position costs what is read of the caches. Sessions of all capacities take turns, position by
position, so that they meet the same machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scripts import run_script

import tvm_sparse
from tvm_sparse.runtime.engine import Engine
from tvm_sparse.runtime.session import Session
from tvm_sparse.zoo.decoders import LLAMA_1B, LLAMA_TINY, llama


def main() -> None:
    """Compile a model and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4, metavar="N", help="layers (default: 4)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads (default: 2)")
    parser.add_argument("--steps", type=int, default=15, metavar="N", help="steps of a measurement")
    parser.add_argument("--cache", default="auto", metavar="auto|float32|float16|int8")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short sequences")
    options = parser.parse_args()
    positions = (1, 16, 100) if options.tiny else (1, 16, 500, 1000, 2000)
    config = LLAMA_TINY if options.tiny else replace(LLAMA_1B, context=8192)
    config = replace(config, layers=options.layers)
    capacities = tuple(
        most for most in (positions[-1] + 32, 2 * positions[-1], config.context)
        if positions[-1] + options.steps < most <= config.context
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = llama(Path(folder) / "model.onnx", config, block=32)
        engine = tvm_sparse.compile(path, threads=options.threads, cache=options.cache)
        measure(engine, positions, capacities, options.steps)


def measure(
    engine: Engine, positions: Sequence[int], capacities: Sequence[int], steps: int
) -> None:
    """Print milliseconds of a step for each position and capacity."""
    sessions = [engine.session(tokens=capacity) for capacity in capacities]
    print("position  " + "  ".join(f"{f'of {capacity}':>16}" for capacity in capacities))
    first: dict[int, float] = {}
    for position in positions:
        row = []
        for one in sessions:
            fill(one, position)
            times = step_times(one, steps)
            first.setdefault(position, min(times))
            row.append(f"{1e3 * min(times):7.2f} ({1e3 * float(np.median(times)):.2f})")
        print(f"{position:8}  " + "  ".join(f"{text:>16}" for text in row), flush=True)
    print(f"position {positions[-1]}: {first[positions[-1]] / first[16]:.2f} of position 16")
    print("milliseconds: the fastest step, and the median of each measurement in brackets")


def fill(session: Session, position: int) -> None:
    """Bring a session to a position."""
    while session.position < position:
        count = min(256, position - session.position)
        session.step([1] * count, last_only=True)
    session.rewind(session.position - position)


def step_times(session: Session, steps: int) -> list[float]:
    """Return seconds of single steps at a position, which the session keeps."""
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        session.step([2])
        times.append(time.perf_counter() - start)
        session.rewind(1)
    return times


if __name__ == "__main__":
    run_script(main)

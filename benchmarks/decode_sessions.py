"""Tokens a second of several users: their sessions step together, or in turn.

    python benchmarks/decode_sessions.py                    # a model of 0.1B, a minute
    python benchmarks/decode_sessions.py --shape 1.1b --context 1024
    python benchmarks/decode_sessions.py --shape tiny       # shows that it runs

The weights are random, of 4 bits. Both ways take turns, so that they meet the same machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from decode_models import CONFIGS
from scripts import run_script

import tvm_sparse
from tvm_sparse.runtime.engine import Engine
from tvm_sparse.zoo.decoders import llama

USERS = (1, 2, 4, 8)


def main() -> None:
    """Compile a model and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="0.1b", choices=sorted(CONFIGS))
    parser.add_argument("--context", type=int, default=128, metavar="N", help="tokens of a session")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads (default: 2)")
    parser.add_argument("--turns", type=int, default=20, metavar="N", help="turns of both ways")
    options = parser.parse_args()
    context = 16 if options.shape == "tiny" else options.context
    with tempfile.TemporaryDirectory() as folder:
        path = llama(Path(folder) / "model.onnx", CONFIGS[options.shape], block=32)
        engine = tvm_sparse.compile(path, threads=options.threads)
        measure(engine, context, options.turns)


def measure(engine: Engine, context: int, turns: int) -> None:
    """Print tokens a second by the number of users."""
    sessions = [engine.session(tokens=context + 1) for _ in range(max(USERS))]
    for session in sessions:
        session.step([1] * context, last_only=True)
    times: dict[tuple[int, bool], list[float]] = {}
    for _ in range(turns):
        for users in USERS:
            for is_together in (False, True):
                start = time.perf_counter()
                if is_together:
                    tvm_sparse.step_sessions(sessions[:users], [2] * users)
                else:
                    for session in sessions[:users]:
                        session.step([2])
                times.setdefault((users, is_together), []).append(time.perf_counter() - start)
                for session in sessions[:users]:
                    session.rewind(1)
    print("users      in turn         together        ratio")
    for users in USERS:
        both = [
            (users / min(each), users / float(np.median(each)))
            for each in (times[users, False], times[users, True])
        ]
        fastest, medians = zip(*both, strict=True)
        texts = "  ".join(f"{best:6.1f} ({usual:6.1f})" for best, usual in both)
        ratios = f"{fastest[1] / fastest[0]:.2f} ({medians[1] / medians[0]:.2f})"
        print(f"{users:5}  {texts}  {ratios}")
    print("tokens a second: the fastest step, and the median in brackets")


if __name__ == "__main__":
    run_script(main)

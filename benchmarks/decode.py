"""Tokens a second of language models: ours, llama.cpp's and ONNX Runtime's, in turns.

The models are Llama's shapes with random weights. Ours are int4 in blocks of 32, dense, or pruned
in a pattern or by magnitude, also in blocks of 128, with embeddings and head whole; llama.cpp runs
Q4_0 of all matrices and Q3_K_S; ONNX Runtime runs the dense int4 model in onnxruntime-genai's form,
with one buffer for past and present and with activations of 8 bits. Models and libraries are kept
in --cache. Every engine has processes of its own; while one is measured, the others are stopped.
The table has tokens a second while decoding one token after the other, of the fastest run and, in
parentheses, of the median run; and those of a prompt.

    pip install -e '.[gguf]'
    LLAMA_BENCH=.../llama-bench python benchmarks/decode.py --shapes 0.1b 1.1b

``llama-quantize`` is looked for beside ``llama-bench``. Without OpenMP llama.cpp is faster:

    cmake -B build -DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DBUILD_SHARED_LIBS=OFF
    cmake --build build --target llama-bench llama-quantize
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decode_models import CONFIGS, Files
from scripts import run_script

_WORKER = Path(__file__).with_name("decode_worker.py")

_ZEROS = ["0", "2of4", "g128-2of4", "g128-70", "g128-5of16", "g128-4of16"]
"""How recipes of pruned models end: blocks of 32, or of 128, and the zeros."""

_DENSE = "llama.cpp Q4_0"


@dataclass
class Rates:
    """Tokens a second that were measured, one a run."""

    decode: list[float] = field(default_factory=list)
    prompt: list[float] = field(default_factory=list)


class Worker:
    """A process of `decode_worker`, which is stopped unless it is asked."""

    def __init__(self, engine: str, model: Path, threads: int, capacity: int) -> None:
        environment = {**os.environ, "TVM_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, _WORKER, engine],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._ask({"model": str(model), "threads": threads, "capacity": capacity})

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.send_signal(signal.SIGCONT)
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        if not line:
            raise SystemExit(f"a worker ended with code {process.wait()}; its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def measure(self, context: int, options: argparse.Namespace, rates: Rates) -> None:
        """Add a run of decoding and of a prompt."""
        tokens, prompt = options.tokens, options.prompt
        answer = self._ask({"context": context, "tokens": tokens, "prompt": prompt})
        rates.decode.append(tokens / sum(answer["steps"]))
        rates.prompt.append(prompt / answer["prompt"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


class LlamaBench:
    """Runs of llama.cpp's own benchmark."""

    def __init__(self, program: Path, model: Path, threads: int) -> None:
        self._command = [program, "-m", model, "-t", threads, "-r", 1, "-o", "json"]

    def _run(self, *arguments: object) -> float:
        command = [str(part) for part in (*self._command, *arguments)]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(json.loads(found)[0]["samples_ts"][0])

    def measure(self, context: int, options: argparse.Namespace, rates: Rates) -> None:
        """Add a run of decoding and of a prompt."""
        rates.decode.append(self._run("-p", 0, "-n", options.tokens, "-d", context))
        rates.prompt.append(self._run("-p", options.prompt, "-n", 0))

    def close(self) -> None:
        """Every run is a process that has ended."""


def entrants(
    shape: str, threads: int, options: argparse.Namespace
) -> dict[str, Worker | LlamaBench]:
    """Start all engines of a shape."""
    bench = os.environ.get("LLAMA_BENCH")
    files = Files(shape, options.cache, Path(bench).with_name("llama-quantize") if bench else None)
    capacity = max(*options.contexts, options.prompt) + options.tokens
    found: dict[str, Worker | LlamaBench] = {}
    if bench:
        for kind in options.peers:
            model = files.gguf(kind)
            found[f"llama.cpp {kind}"] = LlamaBench(Path(bench), model, threads)
    if "onnxruntime" not in options.without:
        found["ONNX Runtime int4"] = Worker("onnxruntime", files.onnx("0"), threads, capacity)
    if "tvm-sparse" not in options.without:
        for zeros in options.zeros:
            name = f"ours int4, {_named(zeros)}"
            found[name] = Worker("tvm-sparse", files.library(zeros, threads), threads, capacity)
    return found


def _named(zeros: str) -> str:
    block, _, share = zeros.rpartition("-")
    named = f"{share} %" if share.isdigit() else share.replace("of", ":")
    blocks = f", blocks of {block[1:]}" if block else ""
    return ("dense" if share == "0" else named) + blocks


def race(shape: str, threads: int, options: argparse.Namespace) -> None:
    """Measure one shape at one number of threads, and print its tables."""
    engines = entrants(shape, threads, options)
    try:
        for context in options.contexts:
            rates = {name: Rates() for name in engines}
            for _ in range(options.turns):
                for name, engine in engines.items():
                    engine.measure(context, options, rates[name])
                    found = rates[name].decode[-1], rates[name].prompt[-1]
                    print(f"{name}: {found[0]:.1f}, {found[1]:.1f}", file=sys.stderr)
            _print(shape, threads, context, options.prompt, rates)
    finally:
        for engine in engines.values():
            engine.close()


def _print(shape: str, threads: int, context: int, prompt: int, rates: dict[str, Rates]) -> None:
    print(f"\n{shape}, {threads} threads, context {context}")
    print(f"| | tokens/s (median) | of Q4_0 | prompt of {prompt}: tokens/s | of Q4_0 |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, found in rates.items():
        cells = [f"{max(found.decode):.1f} ({statistics.median(found.decode):.1f})"]
        cells += [_share(rates, found.decode, "decode")]
        cells += [f"{max(found.prompt):.1f}", _share(rates, found.prompt, "prompt")]
        print(f"| {name} | {' | '.join(cells)} |")
    sys.stdout.flush()


def _share(rates: dict[str, Rates], found: Sequence[float], of: str) -> str:
    """Return the ratio to llama.cpp's Q4_0, of the fastest runs and of the medians."""
    if _DENSE not in rates:
        return ""
    peer = getattr(rates[_DENSE], of)
    return (
        f"{max(found) / max(peer):.2f} ({statistics.median(found) / statistics.median(peer):.2f})"
    )


def main() -> None:
    """Race all shapes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=CONFIGS, default=["0.1b", "0.5b", "1.1b"])
    parser.add_argument("--contexts", nargs="+", type=int, default=[128, 1024])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--zeros", nargs="*", default=_ZEROS)
    parser.add_argument("--peers", nargs="*", default=["Q4_0", "Q3_K_S"], help="llama.cpp's types")
    parser.add_argument("--without", nargs="*", choices=["onnxruntime", "tvm-sparse"], default=[])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--cache", type=Path, default=Path(".cache/decode"))
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    for shape in options.shapes:
        for threads in options.threads:
            race(shape, threads, options)


if __name__ == "__main__":
    run_script(main)

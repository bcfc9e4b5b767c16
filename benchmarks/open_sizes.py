"""One library of open sizes beside libraries of one shape each, in turns.

    python benchmarks/open_sizes.py                     # two transformers at four sizes
    python benchmarks/open_sizes.py resnet50-95 mobilenet-v1-90 --sizes 1 8 --hints 1 8

A model runs at each size, `BATCHxTOKENS` or `BATCH`, in the library that takes all sizes and in the
one for this size; outputs are compared first. The first size is the hint, unless `--hints` names
some. `--save` keeps the libraries and times nothing; a later run with `--load` times them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scripts import run_script
from sized_models import sized

import tvm_sparse
from tvm_sparse.runtime.engine import Engine

NAMES = ("batch", "sequence")
SIZES = ("1x128", "1x8", "8x384", "32x32")
VOCABULARY = 1000
"""Ids are smaller; they change no time."""
FEWEST = 8
"""Runs of an engine at a size, however long one takes."""

Inputs = dict[str, NDArray[Any]]


def compiled(model: str, size: str, arguments: argparse.Namespace) -> Engine:
    """Return the library of a size, or of all sizes if it is ``open``; it may be a saved one."""
    library = arguments.cache / f"{model}-{size}.so"
    if arguments.load:
        return tvm_sparse.load(library, threads=arguments.threads)
    options: dict[str, Any] = {"precision": arguments.precision, "threads": arguments.threads}
    path, _ = sized(model, arguments.cache)
    if size == "open":
        first, hints = extents(arguments.sizes[0]), map(extents, arguments.hints)
        _, shapes = sized(f"{model}:{arguments.sizes[0]}", arguments.cache)
        names = NAMES[: len(first)]
        options["shapes"] = {key: (*names, *of[len(first) :]) for key, of in shapes.items()}
        options["hints"] = dict(zip(names, zip(*hints, strict=True), strict=True))
    else:
        options["shapes"] = sized(f"{model}:{size}", arguments.cache)[1]
    engine = tvm_sparse.compile(path, verify=False, **options)
    if arguments.save:
        engine.save(library)
    return engine


def extents(size: str) -> tuple[int, ...]:
    """Return the numbers of a size such as ``8x384``."""
    return tuple(map(int, size.split("x")))


def inputs_of(model: str, size: str, cache: Path) -> Inputs:
    """Return seeded inputs: images of normal numbers, ids, masks of ones."""
    rng = np.random.default_rng(0)
    _, shapes = sized(f"{model}:{size}", cache)

    def array(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        if len(shape) > 2:
            return rng.standard_normal(shape).astype("float32")
        if name == "input_ids":
            return rng.integers(0, VOCABULARY, shape)
        return np.full(shape, name == "attention_mask", "int64")

    return {name: array(name, shape) for name, shape in shapes.items()}


def times(engines: list[Engine], inputs: Inputs, seconds: float) -> list[list[float]]:
    """Return the seconds of runs of engines that take turns."""
    taken: list[list[float]] = [[] for _ in engines]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken[0]) < FEWEST:
        for engine, own in zip(engines, taken, strict=True):
            start = time.perf_counter()
            engine.run(inputs)
            own.append(time.perf_counter() - start)
    return taken


def row(model: str, size: str, opened: Engine, arguments: argparse.Namespace) -> str:
    """Return a line of the table."""
    inputs = inputs_of(model, size, arguments.cache)
    fixed = compiled(model, size, arguments)
    results = [list(engine.run(inputs).values()) for engine in (opened, fixed)]
    error = max(float(abs(a - b).max() / abs(b).max()) for a, b in zip(*results, strict=True))
    if error > arguments.tolerance:
        raise tvm_sparse.TvmSparseError(f"{model} at {size}: outputs differ by {error:.1e}")
    taken = times([opened, fixed], inputs, arguments.seconds)
    least, middle = ([1e3 * of(own) for own in taken] for of in (min, statistics.median))
    ratios = f"{least[0] / least[1]:.2f} ({middle[0] / middle[1]:.2f})"
    return f"| {model} | {size} | {least[0]:.2f} | {least[1]:.2f} | {ratios} | {error:.0e} |"


def main() -> None:
    """Compile, compare, time, print a Markdown table of fastest and median times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["bert-base-95", "minilm-80"])
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--hints", nargs="+", help="sizes (default: the first of --sizes)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3, help="of both libraries at a size")
    parser.add_argument("--precision", default="float32", help="float32, float16 or auto")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="share of the largest output")
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--load", action="store_true")
    arguments = parser.parse_args()
    arguments.hints = arguments.hints or arguments.sizes[:1]
    if not arguments.save:
        print("| model | size | open ms | fixed ms | ratio (of medians) | difference |")
        print("| --- | --- | ---: | ---: | ---: | ---: |")
    for model in arguments.models:
        opened = compiled(model, "open", arguments)
        for size in arguments.sizes:
            if arguments.save:
                compiled(model, size, arguments)
            else:
                print(row(model, size, opened, arguments), flush=True)


if __name__ == "__main__":
    run_script(main)

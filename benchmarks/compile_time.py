"""Measures how long models take to compile, from the start of the program to the written library.

    python benchmarks/compile_time.py bert-base-95 resnet50-95 model.onnx
    python benchmarks/compile_time.py resnet50-95 --program tvm-sparse --program old/bin/tvm-sparse
    python benchmarks/compile_time.py --chain 10 100 1000

A model is a name of `tvm_sparse.zoo.recipes`, or a file without dynamic dimensions. Several
programs, such as those of two versions, compile each model in turns; nothing is kept between two
runs. ``--chain`` compiles sequences of so many different pruned linear layers.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from scripts import run_script
from sized_models import sized

from tvm_sparse.cpu.this_machine import cpu_name
from tvm_sparse.errors import TvmSparseError
from tvm_sparse.zoo.random_weights import RandomWeights
from tvm_sparse.zoo.transformers import linear_chain

OWN = f"{shlex.quote(sys.executable)} -m tvm_sparse"


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*")
    parser.add_argument("--program", action="append", help="a command; by default this version's")
    parser.add_argument("--chain", nargs="+", type=int, default=[], metavar="LAYERS")
    parser.add_argument("--target", default="native")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("models"))
    given = parser.parse_args()
    programs = given.program or [OWN]
    options = ["--target", given.target, "--threads", str(given.threads)]
    print(f"{cpu_name()}, {given.threads} threads")
    print(f"{'model':24}" + "".join(f"{Path(p.split()[-1]).name[:20]:>22}" for p in programs))
    with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as folder:
        for name, path, shapes in models(given, Path(folder)):
            arguments = [str(path), *options, *shapes, "-o", f"{folder}/library.so"]
            taken = {program: [] for program in programs}
            for _ in range(given.rounds):
                for program in programs:
                    taken[program].append(seconds(shlex.split(program), arguments))
            print(f"{name:24}" + "".join(f"{min(t):20.1f} s" for t in taken.values()), flush=True)


def models(given: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Yield the name, the file and the options of the shapes of every model."""
    for name in given.models:
        if name.endswith(".onnx"):
            yield Path(name).stem, Path(name), []
            continue
        path, shapes = sized(name, given.cache)
        texts = [f"{key}={','.join(map(str, shape))}" for key, shape in shapes.items()]
        yield name, path, [part for text in texts for part in ("--shape", text)]
    for layers in given.chain:
        widths = [64 + 16 * (i % 7) for i in range(layers + 1)]
        path = linear_chain(folder / f"chain{layers}.onnx", widths, RandomWeights(0.9))
        yield f"{layers} linear layers", path, ["--shape", f"x=1,128,{widths[0]}"]


def seconds(program: list[str], arguments: list[str]) -> float:
    """Return how long a program takes to compile a model."""
    start = time.perf_counter()
    done = subprocess.run([*program, "compile", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise TvmSparseError(f"{shlex.join(program)}: {done.stderr.strip()[-400:]}")
    return time.perf_counter() - start


if __name__ == "__main__":
    run_script(main)

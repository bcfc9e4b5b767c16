"""Measures how long models take to compile, from the start of the program to the written library.

    python benchmarks/compile_time.py bert-base-95 resnet50-95 model.onnx
    python benchmarks/compile_time.py resnet50-95 --program tvm-sparse --program old/bin/tvm-sparse
    python benchmarks/compile_time.py --chain 10 100 1000

A model is a name of `tvm_sparse.zoo.recipes`, or a file without dynamic dimensions. Several
programs, such as those of two versions, compile each model in turns; nothing is kept between two
runs, unless ``--warm`` asks for a second run with the kernels of the first. ``--chain`` compiles
sequences of so many different pruned linear layers, and ``--nested`` as many activations, each of
the one before. The processor seconds of all cores, in brackets, tell more on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
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
    parser.add_argument("--nested", nargs="+", type=int, default=[], metavar="ACTIVATIONS")
    parser.add_argument("--warm", action="store_true", help="measure the second of two runs")
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
                    with tempfile.TemporaryDirectory(dir=folder) as cache:
                        for _ in range(1 + given.warm):
                            found = seconds(shlex.split(program), arguments, cache)
                    taken[program].append(found)
            least = [tuple(map(min, zip(*found, strict=True))) for found in taken.values()]
            texts = (f"{f'{wall:.1f} ({processor:.1f}) s':>22}" for wall, processor in least)
            print(f"{name:24}" + "".join(texts), flush=True)


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
    for count in given.nested:
        yield f"{count} nested activations", nested(folder / f"nested{count}.onnx", count), []


def nested(path: Path, count: int) -> Path:
    """Write a model of activations, each of the one before."""
    node, kinds = onnx.helper.make_node, ("Sigmoid", "Tanh", "Softplus", "Elu")
    nodes = [node(kinds[i % len(kinds)], [f"x{i}"], [f"x{i + 1}"]) for i in range(count)]
    ends = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 64, 56, 56))
        for name in ("x0", f"x{count}")
    )
    graph = onnx.helper.make_graph(nodes, "nested", *([end] for end in ends))
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def seconds(program: list[str], arguments: list[str], cache: str) -> tuple[float, float]:
    """Return how long a program takes to compile a model, and the processor time of all cores."""
    environment = os.environ | {"TVM_SPARSE_KERNEL_CACHE": cache}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [*program, "compile", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise TvmSparseError(f"{shlex.join(program)}: {done.stderr.strip()[-400:]}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    own, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return wall, own + system


if __name__ == "__main__":
    run_script(main)

"""Prints what a model takes on a Raspberry Pi 4: its library, and memory while it runs.

    python benchmarks/board_size.py

The library holds code and weights and is stripped. The bytes of weights and activations are those
that the compiler planned. The memory is that of the C++ program in RAM, less the memory that it
needs for a model of a few KB: the median while it runs, and the peak, which is reached when TVM's
runtime copies the weights out of the library. For the board, the program runs under qemu, and the
code that qemu generates does not count. For comparison, code for AVX2 runs on this machine: AVX2
pads images to almost as few lanes as NEON does, whereas AVX-512 pads them to sixteen. The program
needs cmake, qemu-user-static and g++-aarch64-linux-gnu.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import tvm
from tvm import relax
from tvm.ir.instrument import pass_instrument

import tvm_sparse
from tvm_sparse.bench import arrays
from tvm_sparse.report.run_memory import storage_bytes
from tvm_sparse.testing.models import write_mlp
from tvm_sparse.zoo import random_weights, recipes, transformers

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "cpp"
QEMU = ("qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu")
MINILM = replace(transformers.BERT_BASE, layers=6, width=384, intermediate=1536)
HERE, BOARD = "x86-64-v3", "rpi4"
RUNS = {HERE: 300, BOARD: 20}
TINY_RUNS = 20_000

Shapes = Mapping[str, Sequence[int]]


def minilm(zeros: int) -> recipes.ModelRecipe:
    """Return a model of the sizes of all-MiniLM-L6-v2, for 128 tokens, with `zeros` % zeros."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    build = partial(
        transformers.bert, config=MINILM, weights=random_weights.RandomWeights(zeros / 100)
    )
    return recipes.ModelRecipe(build, dict.fromkeys(names, (1, 128)))


MODELS: dict[str, tuple[Callable[[int], recipes.ModelRecipe], int]] = {
    "MobileNetV1, 90 % zeros": (lambda zeros: recipes.recipe(f"mobilenet-v1-{zeros}"), 90),
    "MiniLM (6 layers of 384), 80 %": (minilm, 80),
}


@dataclass(frozen=True)
class Memory:
    """Bytes that a process has in memory: typically, and at most."""

    running: int
    peak: int

    def __sub__(self, other: Memory) -> Memory:
        return Memory(self.running - other.running, self.peak - other.peak)


def main() -> None:
    """Measure all models and print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads (default: 2)")
    threads = parser.parse_args().threads
    sizes = [["MB", "dense ONNX", f"library for {BOARD}"]]
    memories = [["MB", "weights", "activations", "running", "peak"]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny = write_mlp(folder / "tiny.onnx")
        programs = {HERE: [build(folder / "here")], BOARD: [*QEMU, build_for_board(folder)]}

        def memory(
            model: Path, shapes: Shapes, target: str, runs: int
        ) -> tuple[PlannedMemory, Memory]:
            library, planned = folder / f"{target}.so", PlannedMemory()
            with tvm.transform.PassContext(instruments=[planned]):
                engine = tvm_sparse.compile(model, shapes, target=target, threads=threads)
            engine.save(library)
            arguments = ["--threads", str(threads), "--runs", str(runs)]
            for spec, array in arrays.random_inputs(engine.inputs).items():
                array.tofile(folder / f"{spec}.bin")
                arguments += ["--input", folder / f"{spec}.bin"]
            return planned, watch([*programs[target], library, *arguments])

        least = {
            target: memory(tiny, {"x": (1, 20, 32)}, target, TINY_RUNS)[1] for target in programs
        }
        for title, (recipe, zeros) in MODELS.items():
            dense = recipe(0).build(folder / "dense.onnx").stat().st_size
            pruned, shapes = recipe(zeros).build(folder / "pruned.onnx"), recipe(zeros).shapes
            for target, place in ((HERE, "AVX2, here"), (BOARD, f"{BOARD}, under qemu")):
                planned, seen = memory(pruned, shapes, target, RUNS[target])
                seen -= least[target]
                values = (planned.weights, planned.activations, seen.running, seen.peak)
                memories.append([f"{title}: {place}", *map(_megabytes, values)])
            library = (folder / f"{BOARD}.so").stat().st_size
            sizes.append([title, _megabytes(dense), _megabytes(library)])
    for table in (sizes, memories):
        rule = ["---", *["---:"] * (len(table[0]) - 1)]
        for row in (table[0], rule, *table[1:]):
            print("|", " | ".join(row), "|")
        print()


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}"


@pass_instrument
class PlannedMemory:
    """Bytes of all weights of a model, and of the memory that its activations share."""

    weights = activations = 0

    def run_before_pass(self, mod: tvm.IRModule, info: tvm.ir.transform.PassInfo) -> None:
        """Look at the module once its memory is planned."""
        if info.name != "VMShapeLower":
            return
        self.activations = storage_bytes(mod)
        sizes: list[int] = []

        def visit(expr: relax.Expr) -> None:
            if isinstance(expr, tvm.ir.GenericConst) and hasattr(expr.value, "numpy"):
                sizes.append(expr.value.numpy().nbytes)

        for func in mod.functions.values():
            if isinstance(func, relax.Function):
                relax.analysis.post_order_visit(func, visit)
        self.weights = sum(sizes)


def build(folder: Path, *options: str) -> Path:
    """Build the C++ program in a folder; returns its path."""
    settings = (f"-DPYTHON={sys.executable}", "-DCMAKE_BUILD_TYPE=Release", *options)
    subprocess.run(
        ["cmake", "-S", EXAMPLE, "-B", folder, *settings], check=True, capture_output=True
    )
    subprocess.run(["cmake", "--build", folder], check=True, capture_output=True)
    return folder / "run"


def build_for_board(folder: Path) -> Path:
    """Build the C++ program for 64-bit ARM, with TVM's runtime; returns its path."""
    runtime = folder / "runtime"
    environment = os.environ | {"PYTHON": sys.executable}
    command = [EXAMPLE / "fetch_runtime.sh", runtime]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={EXAMPLE / 'aarch64.cmake'}"
    return build(folder / "board", f"-DTVM_LIBRARIES={runtime}", toolchain)


def watch(command: Sequence[str | Path]) -> Memory:
    """Run a command and look at its memory all the time."""
    sizes, peak = [], 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        folder = Path(f"/proc/{process.pid}")
        while process.poll() is None:
            with contextlib.suppress(OSError):
                total, generated = resident((folder / "smaps").read_text())
                sizes.append(total - generated)
                # The system knows the exact peak, but with the generated code, which only grows.
                if found := re.search(r"VmHWM:\s+(\d+)", (folder / "status").read_text()):
                    peak = max(peak, 1024 * int(found[1]) - generated)
            time.sleep(0.002)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with exit status {process.returncode}")
    return Memory(int(statistics.median(sizes)), peak)


def resident(maps: str) -> tuple[int, int]:
    """Return the bytes of a process that are in memory, and those of code that it generated."""
    total = generated = 0
    executable = False
    for line in maps.splitlines():
        if mapping := re.match(r"[0-9a-f]+-[0-9a-f]+ (\S{4}) ", line):
            executable = mapping[1].startswith("rwx")
        elif line.startswith("Rss:"):
            size = 1024 * int(line.split()[1])
            total += size
            generated += size * executable
    return total, generated


if __name__ == "__main__":
    main()

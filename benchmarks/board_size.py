"""Prints what a model takes on a Raspberry Pi 4: its library, and memory while it runs.

    python benchmarks/board_size.py

The library holds code and weights and is stripped. Memory is what is resident at the peak of some
runs of the C++ program, less what a model of a few KB takes there: on this machine, and under qemu
for the board, without qemu's own code buffer. Needs cmake, qemu-user-static and
g++-aarch64-linux-gnu.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import tvm_sparse
from tvm_sparse import benchmarking, models, testing

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "cpp"
QEMU = ("qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu")
MINILM = replace(models.BERT_BASE, layers=6, width=384, intermediate=1536)
RUNS = 20
TINY_RUNS = 20_000

Shapes = Mapping[str, Sequence[int]]


def minilm(zeros: int) -> models.ModelRecipe:
    """Return a model of the sizes of all-MiniLM-L6-v2, for 128 tokens, with `zeros` % zeros."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    build = partial(models.bert, config=MINILM, weights=models.RandomWeights(zeros / 100))
    return models.ModelRecipe(build, dict.fromkeys(names, (1, 128)))


MODELS: dict[str, tuple[Callable[[int], models.ModelRecipe], int]] = {
    "MobileNetV1, 90 % zeros": (lambda zeros: models.recipe(f"mobilenet-v1-{zeros}"), 90),
    "MiniLM (6 layers of 384), 80 %": (minilm, 80),
}


def main() -> None:
    """Measure all models and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads (default: 2)")
    threads = parser.parse_args().threads
    print("| model | dense ONNX MB | library for rpi4 MB | memory here MB | memory under qemu MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny = testing.write_mlp(folder / "tiny.onnx")
        programs = {"native": [build(folder / "here")], "rpi4": [*QEMU, build_for_board(folder)]}

        def memory(model: Path, shapes: Shapes, target: str, runs: int) -> int:
            library = folder / f"{target}.so"
            engine = tvm_sparse.compile(model, shapes, target=target, threads=threads)
            engine.save(library)
            arguments = ["--threads", str(threads), "--runs", str(runs)]
            for spec, array in benchmarking.random_inputs(engine.inputs).items():
                array.tofile(folder / f"{spec}.bin")
                arguments += ["--input", folder / f"{spec}.bin"]
            return peak_memory([*programs[target], library, *arguments])

        least = {target: memory(tiny, {"x": (1, 20, 32)}, target, TINY_RUNS) for target in programs}
        for title, (recipe, zeros) in MODELS.items():
            dense = recipe(0).build(folder / "dense.onnx").stat().st_size
            pruned, shapes = recipe(zeros).build(folder / "pruned.onnx"), recipe(zeros).shapes
            here, board = (memory(pruned, shapes, target, RUNS) - least[target] for target in least)
            values = (dense, (folder / "rpi4.so").stat().st_size, here, board)
            print(f"| {title} |", " | ".join(f"{value / 1e6:.1f}" for value in values), "|")


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


def peak_memory(command: Sequence[str | Path]) -> int:
    """Return the most bytes that a command has had in memory, as far as looking often tells."""
    most = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError):
                most = max(most, resident(Path(f"/proc/{process.pid}/smaps").read_text()))
            time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with exit status {process.returncode}")
    return most


def resident(maps: str) -> int:
    """Return the bytes of a process that are in memory, without code that qemu generated."""
    total, generated = 0, False
    for line in maps.splitlines():
        if mapping := re.match(r"[0-9a-f]+-[0-9a-f]+ (\S{4}) ", line):
            generated = mapping[1].startswith("rwx")
        elif line.startswith("Rss:") and not generated:
            total += 1024 * int(line.split()[1])
    return total


if __name__ == "__main__":
    main()

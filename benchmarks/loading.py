"""Loading a library, and the memory of a process that runs it, beside ONNX Runtime.

    python benchmarks/loading.py model.onnx model.so --turns 5

Each turn starts a new process for each engine: it imports the engine, loads the file, and runs the
model three times, on zeros. Columns are fastest (median) of the turns, times in milliseconds. The
memory is what the kernel says of the process: resident at the end, of which others share none
(private), and at most (peak). With --together, two processes of each engine run at once, and the
column "both" is what the two take: their proportional shares of common pages. With --deepsparse,
the Python of an environment that has DeepSparse, ONNX files are run in it, too; it needs files of
fixed shapes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from scripts import run_script

from tvm_sparse.errors import TvmSparseError

_WORKER = Path(__file__).with_name("loading_worker.py")
_TIMES = ("import", "load", "first", "run")
_SIZES = ("resident", "private", "peak")


def main() -> None:
    """Parse the command line, measure in turns, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", help="libraries, and ONNX files for ONNX Runtime")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--together", action="store_true", help="two processes of each at once")
    parser.add_argument("--deepsparse", metavar="PYTHON", help="run ONNX files in it, too")
    options = parser.parse_args()
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for file in options.files:
        found[file, sys.executable] = []
        if options.deepsparse and file.endswith(".onnx"):
            found[file, options.deepsparse] = []
    for _ in range(options.turns):
        for (file, python), answers in found.items():
            answers.append(_turn(python, file, options.threads, 2 if options.together else 1))
    table = Table("file", *_TIMES, *(f"{size} MB" for size in (*_SIZES, "both")), box=None)
    for (file, python), answers in found.items():
        cells = [_cell([answer[name] for answer in answers]) for name in (*_TIMES, *_SIZES, "both")]
        engine = "" if python == sys.executable else " in DeepSparse"
        table.add_row(Path(file).name + engine, *cells)
    Console(width=140).print(table)


def _turn(python: str, file: str, threads: int, count: int) -> dict[str, float]:
    """Return what one of `count` processes measures, and the memory of all of them."""
    engine = "onnxruntime" if file.endswith(".onnx") else "tvm_sparse"
    if python != sys.executable:
        engine = "deepsparse"
    command = [python, str(_WORKER), engine, file, str(threads)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    # No process reads the size of its shares before all have run the model.
    lines = [_line(worker, file) for worker in workers]
    shares = []
    for worker in workers:
        print(file=worker.stdin, flush=True)
        shares.append(float(_line(worker, file)))
    for worker in workers:
        worker.communicate("\n")
    return json.loads(lines[0]) | {"both": sum(shares)}


def _line(worker: subprocess.Popen[str], file: str) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise TvmSparseError(f"{file}: the process that loads it failed")
    return line


def _cell(values: list[float]) -> str:
    return f"{min(values):.1f} ({statistics.median(values):.1f})"


if __name__ == "__main__":
    run_script(main)

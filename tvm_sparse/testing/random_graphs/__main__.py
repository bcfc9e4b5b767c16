"""Compile random ONNX graphs and compare each with ONNX Runtime.

    python -m tvm_sparse.testing.random_graphs --count 3000 --seed 0 --jobs 2

A failure prints its seed and is shrunk to a small ONNX file, with its inputs beside it. The exit
code is 1 if a graph failed. Models that are refused by a clear error are counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tvm_sparse.runtime.isolated import CommandError, IsolatedProcess, ProcessDied
from tvm_sparse.testing.random_graphs.case import Case, random_case
from tvm_sparse.testing.random_graphs.check import REFUSED, RIGHT
from tvm_sparse.testing.random_graphs.shrink import shrink
from tvm_sparse.testing.random_graphs.worker import write_case

WORKER = "tvm_sparse.testing.random_graphs.worker"
SECONDS = 300
"""A graph that takes longer fails; a typical one takes a second on a core."""
GRAPHS_PER_PROCESS = 200
"""A process is replaced after so many graphs, as compiled models leave memory behind."""


class Runner:
    """Runs random graphs in processes of their own, and collects outcomes.

    Parameters
    ----------
    nodes : int
        The least number of nodes of a graph.
    folder : Path
        Where failing graphs are written.
    integers : bool
        Whether most of their operators are quantized.
    """

    def __init__(self, nodes: int, folder: Path, integers: bool) -> None:
        self.nodes, self.folder, self.integers = nodes, folder, integers
        self.outcomes: dict[int, str] = {}
        self._local = threading.local()
        self._counting = threading.Lock()
        self._start = time.monotonic()
        self._processes: list[IsolatedProcess] = []

    def run(self, seed: int) -> None:
        """Run a graph; a failure is printed and shrunk."""
        found = self._call("graph", seed=seed, nodes=self.nodes, integers=self.integers)
        kind = found.split(":")[0]
        with self._counting:
            self.outcomes[seed] = found
            if len(self.outcomes) % 50 == 0:
                seconds = time.monotonic() - self._start
                self._say(f"{len(self.outcomes)} graphs, {seconds:.0f} s: {self}")
        if kind != RIGHT:
            self._say(f"seed {seed}: {found}")
        if kind not in (RIGHT, REFUSED):
            self._shrink(seed, kind)

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.close()

    def __str__(self) -> str:
        """Return how many graphs had which outcome."""
        counts = Counter(found.split(":")[0] for found in self.outcomes.values())
        return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())

    def _shrink(self, seed: int, kind: str) -> None:
        folder = self.folder / str(seed)

        def fails(case: Case) -> bool:
            write_case(case, folder)
            options = dataclasses.asdict(case.options)
            return self._call("file", folder=str(folder), **options).split(":")[0] == kind

        try:
            small = shrink(random_case(seed, self.nodes, self.integers), fails)
        # A failure that cannot be shrunk must not end the run.
        except Exception as error:
            self._say(f"seed {seed}: not shrunk: {type(error).__name__}: {error}")
            return
        fails(small)
        nodes = " ".join(node.op_type for node in small.model.graph.node)
        self._say(f"seed {seed}: {folder}/model.onnx fails, too: {nodes}; {small.options}")

    def _call(self, command: str, **arguments: object) -> str:
        local = self._local
        if getattr(local, "left", 0) == 0:
            if hasattr(local, "process"):
                local.process.close()
            local.process, local.left = IsolatedProcess(WORKER), GRAPHS_PER_PROCESS
            self._processes.append(local.process)
        local.left -= 1
        try:
            return str(local.process.call(command, SECONDS, **arguments)["outcome"])
        except ProcessDied as error:
            return f"crash: {error}"
        except CommandError as error:
            return f"generator: {error}"

    @staticmethod
    def _say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def main() -> int:
    """Run the command line; see the docstring of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m tvm_sparse.testing.random_graphs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=100, help="how many graphs (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first one")
    parser.add_argument("--nodes", type=int, default=12, help="the least number of nodes of each")
    parser.add_argument("--integers", action="store_true", help="graphs of quantized operators")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes at once")
    parser.add_argument("--output", type=Path, help="the folder for graphs that fail")
    arguments = parser.parse_args()
    folder = arguments.output or Path(tempfile.mkdtemp(prefix="tvm_sparse-random_graphs-"))
    runner = Runner(arguments.nodes, folder, arguments.integers)
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    try:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(runner.run, seeds))
    finally:
        runner.close()
    runner._say(f"{len(runner.outcomes)} graphs: {runner}")
    kinds = {found.split(":")[0] for found in runner.outcomes.values()}
    return int(not kinds <= {RIGHT, REFUSED})


if __name__ == "__main__":
    sys.exit(main())

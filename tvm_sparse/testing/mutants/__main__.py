"""Mutate models, libraries, records and arrays, and give each mutant to the command line.

    python -m tvm_sparse.testing.mutants --models 2000 --libraries 300 --records 300 --arrays 300

Each mutant has a minute and 6 GB. It may be refused by one clear line, or work as ONNX Runtime
says. It may not crash, hang, end in a traceback, leave files behind, or be a model that is invalid
and is compiled all the same. A failure keeps its file, and prints its seed and how to repeat it;
the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tvm_sparse.runtime.isolated import CommandError, IsolatedProcess, ProcessDied
from tvm_sparse.testing.mutants.outcomes import BAD, GOOD

WORKER = "tvm_sparse.testing.mutants.worker"
_SECONDS = 1300
"""How long the worker may take for a mutant, which has limits of its own."""

KINDS = ("models", "libraries", "records", "arrays")


class Runner:
    """Runs mutants and collects outcomes.

    Parameters
    ----------
    folder : Path
        Where the seeds and the mutants that fail are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.outcomes: dict[tuple[str, int], str] = {}
        self.seconds = 0.0
        self._local = threading.local()
        self._lock = threading.Lock()
        self._processes: list[IsolatedProcess] = []

    def run(self, kind: str, seed: int) -> None:
        """Run a mutant; the files of a failure stay."""
        folder = self.folder / f"{kind}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        start = time.monotonic()
        found, of = self._outcome(kind, seed, folder)
        with self._lock:
            self.outcomes[kind, seed] = found
            self.seconds += time.monotonic() - start
            if len(self.outcomes) % 100 == 0:
                _say(f"{len(self.outcomes)} mutants, {self.seconds:.0f} s: {self.counts()}")
        if found.split(":")[0] in GOOD:
            shutil.rmtree(folder, ignore_errors=True)
            return
        _say(f"{kind} {seed} (of {of}): {found}")
        _say(f"  {folder}; again: --{kind} 1 --seed {seed} --output {self.folder}")

    def prepare(self, records: bool) -> None:
        """Write the seeds."""
        with IsolatedProcess(WORKER) as process:
            process.call("corpus", _SECONDS, folder=str(self.folder), records=records)

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.close()

    def counts(self, kind: str = "") -> dict[str, int]:
        """Return how many mutants had which outcome."""
        return Counter(
            found.split(":")[0] for (of, _), found in self.outcomes.items() if kind in ("", of)
        )

    def table(self) -> str:
        """Return a row for each kind, in Markdown."""
        used = {found.split(":")[0] for found in self.outcomes.values()}
        columns = [*GOOD, *(name for name in (*BAD, "generator") if name in used)]
        rows: list[tuple[str, ...]] = [("mutants of", "number", *columns)]
        for kind in KINDS:
            if counts := self.counts(kind):
                shown = (str(counts.get(name, 0)) for name in columns)
                rows.append((kind, str(sum(counts.values())), *shown))
        rows.insert(1, ("---", *["---:"] * (len(columns) + 1)))
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)

    def _outcome(self, kind: str, seed: int, folder: Path) -> tuple[str, str]:
        arguments = {"kind": kind, "seed": seed, "corpus": str(self.folder), "folder": str(folder)}
        try:
            answer = self._process().call("mutant", _SECONDS, **arguments)
        except ProcessDied as error:
            return f"crash: the worker: {error}", "?"
        except CommandError as error:
            return f"generator: {error}", "?"
        (folder / "said.txt").write_text(answer["said"])
        return answer["outcome"], answer["seed"]

    def _process(self) -> IsolatedProcess:
        if not hasattr(self._local, "process"):
            self._local.process = IsolatedProcess(WORKER)
            self._processes.append(self._local.process)
        process: IsolatedProcess = self._local.process
        return process


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the command line; see the docstring of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m tvm_sparse.testing.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=0, help="how many mutants (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first one")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes at once")
    parser.add_argument("--output", type=Path, help="the folder for seeds and failures")
    arguments = parser.parse_args()
    folder = arguments.output or Path(tempfile.mkdtemp(prefix="tvm_sparse-mutants-"))
    counts = {kind: getattr(arguments, kind) for kind in KINDS}
    cases = [(kind, arguments.seed + at) for kind, count in counts.items() for at in range(count)]
    runner = Runner(folder)
    try:
        runner.prepare(records=counts["records"] > 0)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(lambda case: runner.run(*case), cases))
    finally:
        runner.close()
    _say(runner.table())
    return int(not {found.split(":")[0] for found in runner.outcomes.values()} <= set(GOOD))


if __name__ == "__main__":
    sys.exit(main())

"""Let one write or one allocation of compile, save and tune fail in each run.

    python -m tvm_sparse.testing.faults --runs 300

Each run must do its work all the same, or end with one clear line and status 2, with the old file
whole and nothing left behind that the next run does not remove. All calls fail in turn if they are
no more than the number of runs; else every n-th does. It needs a C compiler.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tvm_sparse.runtime.isolated import CommandError, IsolatedProcess, ProcessDied
from tvm_sparse.testing.faults import shim

WORKER = "tvm_sparse.testing.faults.worker"
_SECONDS = 1300
"""How long the worker may take for a run, which has limits of its own."""

VERBS = ("compile", "save", "tune")

GOOD = ("done", "error")
"""The fault did not matter, or one clear line says what is wrong."""


class Runner:
    """Runs a verb with one fault each time.

    Parameters
    ----------
    folder : Path
        Where all files are; those of failures stay.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = IsolatedProcess(WORKER)
        before = dict(os.environ)
        os.environ.update(shim.prepare(self.folder))
        try:
            self._process.call("corpus", _SECONDS, folder=str(self.folder))
        finally:
            os.environ.clear()
            os.environ.update(before)

    def run(self, verb: str, kind: str, runs: int, first: int = 1) -> dict[str, int]:
        """Let calls fail, evenly from the first to the last; return the number of each outcome."""
        _, calls = self._once(verb, kind, 0)
        step = max(1, -(-calls // runs))
        counts: Counter[str] = Counter()
        for at in range(first, calls + 1, step):
            found, _ = self._once(verb, kind, at)
            counts[found.split(":")[0]] += 1
        return {"calls": calls, **counts}

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _once(self, verb: str, kind: str, at: int) -> tuple[str, int]:
        folder = self.folder / f"{verb}-{kind}-{at}"
        shutil.rmtree(folder, ignore_errors=True)
        arguments = {"verb": verb, "kind": kind, "at": at}
        places = {"corpus": str(self.folder), "folder": str(folder)}
        try:
            answer = self._process.call("run", _SECONDS, **arguments, **places)
        except (ProcessDied, CommandError) as error:
            answer = {"outcome": f"worker: {error}", "count": 0, "said": ""}
        if answer["outcome"] in GOOD:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            say(f"{verb}, {kind}, call {at}: {answer['outcome']}\n  {folder}")
            (folder / "said.txt").write_text(answer["said"])
        return answer["outcome"], answer["count"]


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(rows: dict[tuple[str, str], dict[str, int]]) -> str:
    """Return the outcomes in Markdown."""
    kinds = [*GOOD, *sorted({k for row in rows.values() for k in row} - {*GOOD, "calls"})]
    lines = [["verb", "what fails", "calls", "runs", *kinds], ["---", "---"]]
    lines[1] += ["---:"] * (len(kinds) + 2)
    for (verb, kind), row in rows.items():
        runs = sum(count for name, count in row.items() if name != "calls")
        counts = (f"{row.get(name, 0):,}" for name in kinds)
        lines.append([verb, kind, f"{row['calls']:,}", f"{runs:,}", *counts])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    """Run the command line; see the docstring of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m tvm_sparse.testing.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=100, help="of each kind (default: 100)")
    parser.add_argument("--first", type=int, default=1, help="the first call that fails")
    parser.add_argument("--verb", action="append", choices=VERBS, help="only this one")
    parser.add_argument("--kind", action="append", choices=list(shim.KINDS), help="only this one")
    parser.add_argument("--output", type=Path, help="the folder for files of failures")
    arguments = parser.parse_args()
    folder = arguments.output or Path(tempfile.mkdtemp(prefix="tvm_sparse-faults-"))
    rows = {}
    runner = Runner(folder)
    try:
        for verb in arguments.verb or VERBS:
            for kind in arguments.kind or shim.KINDS:
                rows[verb, kind] = runner.run(verb, kind, arguments.runs, arguments.first)
                say(f"{verb}, {kind}: {rows[verb, kind]}")
    finally:
        runner.close()
    say(table(rows))
    return int(any(set(row) > {*GOOD, "calls"} for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())

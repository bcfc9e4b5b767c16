"""The process in which one call fails: it forks a child for each run, and judges what is left."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Children find everything imported.
import tvm_sparse.testing.mutants.worker  # noqa: F401
from tvm_sparse import compiler, files
from tvm_sparse.cli import limits, main
from tvm_sparse.errors import TvmSparseError
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.runtime.isolated import serve
from tvm_sparse.testing.faults import shim
from tvm_sparse.testing.mutants import child
from tvm_sparse.testing.mutants.corpus import Corpus

_SWEEP_SECONDS = 5.0
"""Seconds that the shells which remove temporary folders may take."""

_OLD = b"an old file, which must stay as it is\n"


def _program(*words: str) -> Callable[[], int]:
    """Return a function that runs the whole program; calls are counted in its inner process."""

    def run() -> int:
        in_child = limits.in_child

        def and_watch(seconds: float | None, gigabytes: float) -> int | None:
            status = in_child(seconds, gigabytes)
            if status is None:
                shim.watch()
            return status

        limits.in_child = and_watch
        sys.argv = ["tvm-sparse", *words]
        return main.main()

    return run


def _saves(library: Path, output: Path) -> Callable[[], int]:
    """Return a function that saves a library which was loaded."""

    def run() -> int:
        engine = compiler.load(library, threads=1)
        shim.watch()
        try:
            engine.save(output)
        except TvmSparseError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0

    return run


def _function(verb: str, corpus: Corpus, output: Path) -> Callable[[], int]:
    model, out = str(corpus.tuned), str(output)
    if verb == "compile":
        return _program("compile", model, "-o", out, "--records", "off", "--threads", "1")
    if verb == "save":
        return _saves(corpus.library, output)
    return _program("tune", model, "--records", out, "--trials", "1", "--threads", "1")


class Worker:
    """What the process can be asked for."""

    def corpus(self, folder: str) -> None:
        """Write the model and its library."""
        Corpus(Path(folder)).write()

    def run(self, verb: str, kind: str, at: int, corpus: str, folder: str) -> dict[str, str | int]:
        """Run a verb in which a call fails; return the outcome and how many calls there were."""
        where = Path(folder)
        (where / "results").mkdir(parents=True)
        output = where / "results" / "out.so"
        old = _OLD if verb != "tune" else b""
        output.write_bytes(old)
        function = _function(verb, Corpus(Path(corpus)), output)
        (where / "tmp").mkdir()
        (where / "home").mkdir()
        shim.choose(kind, at)
        status, out, err = child.forked(function, where)
        count = shim.counted()
        shim.choose(kind, 0)
        found = _judged(status, err) or _left(where) or _lost(verb, status, output, old)
        return {"outcome": found or _OUTCOMES[status], "count": count, "said": out + err}


_OUTCOMES = {0: "done", 2: "error"}


def _judged(status: int, err: str) -> str:
    """Return what is wrong with the end of the program, or ""."""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    if status == -signal.SIGXCPU:
        return "hang: no end"
    if status < 0:
        return f"crash: {signal.Signals(-status).name}"
    if "Traceback" in err:
        return f"traceback: {err.strip().splitlines()[-1]}"
    if "with what --debug prints" in err:
        return f"report: {errors[-1]}"
    if status not in _OUTCOMES or len(errors) != (status == 2):
        return f"unclear: status {status}, {err.strip()!r}"
    return ""


def _left(where: Path) -> str:
    """Return what was left behind beside the result, once the next run has swept."""
    end = time.monotonic() + _SWEEP_SECONDS
    while True:
        left = [p.name for p in (*(where / "results").iterdir(), *(where / "tmp").iterdir())]
        left.remove("out.so") if "out.so" in left else None
        if not left or time.monotonic() > end:
            break
        time.sleep(0.05)
        for folder in ("results", "tmp"):
            with files.scratch_folder(where / folder):
                pass
    return f"leftover: {', '.join(left)}" if left else ""


def _lost(verb: str, status: int, output: Path, old: bytes) -> str:
    """Return what is wrong with the result, or ""."""
    if not output.exists():
        return "lost: the old file is gone"
    content = output.read_bytes()
    if verb == "tune":
        try:
            [json.loads(line) for line in content.splitlines()]
            RecordedPlans.read(output)
        except (ValueError, TvmSparseError) as error:
            return f"lost: the records cannot be read: {error}"
        return ""
    # After the file was replaced, standard output may fail.
    if status == 0 or content != old:
        try:
            compiler.load(output, threads=1).close()
        except TvmSparseError as error:
            return f"lost: {error}"
    return ""


if __name__ == "__main__":
    serve(Worker())

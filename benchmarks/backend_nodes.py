"""How much of ONNX compiles and is right: the backend node tests of the onnx package.

Every test is run three times: by this package, by ONNX Runtime, and by TVM alone (its Relax
frontend and default pipeline). Each engine works in a process of its own, since a wrong kernel may
crash it.

    python benchmarks/backend_nodes.py                             # all tests: half an hour
    python benchmarks/backend_nodes.py --match 'test_conv*'
    python benchmarks/backend_nodes.py --outcomes nodes.jsonl      # goes on where it was ended
    python benchmarks/backend_nodes.py --record tests/data/backend_nodes.json
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from node_engines import ENGINES, ORT, OURS, RIGHT, THROUGH, TVM
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase

SECONDS = 60
"""A test that takes longer to compile and run counts as failed; a typical one takes 0.2 s."""

RIGHT_KINDS = (RIGHT, THROUGH)

AS_ORT = "as ONNX Runtime"
"""The outputs are those of ONNX Runtime, which differ from those of the test."""

ACCEPTED = (*RIGHT_KINDS, AS_ORT, "ModelError", "InputError", "random")
"""What a test may end in: the right outputs, or an error that says what is not supported."""

TRANSFORMS = ("DFT", "STFT")
"""Operators whose small results are differences of large sums, and have the rounding of those."""

RANDOM = ("Bernoulli", "Dropout", "RandomUniformLike")
"""Operators that draw random numbers; Dropout does so in training only."""


def cases(match: str = "*") -> dict[str, TestCase]:
    """Return the node tests whose names match a shell pattern, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(action="ignore"):  # of tests that mean to divide by zero
        found = collect_testcases(None)
    return {case.name: case for case in found if fnmatch.fnmatch(case.name, match)}


def outcome(engine: str, case: TestCase) -> str:
    """Compile and run a test; returns "right", or the kind of failure and its first line."""
    inputs, expected = ([*map(_value, part)] for part in case.data_sets[0])
    names = [value.name for value in case.model.graph.input]
    shapes = {
        name: value.shape
        for name, value in zip(names, inputs, strict=True)
        if isinstance(value, np.ndarray)
    }
    try:
        actual, kind = ENGINES[engine](case.model, shapes)(inputs)
    # Whatever an engine raises is the result of its test.
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    if kind not in RIGHT_KINDS:
        return kind
    atol = case.atol
    if any(node.op_type in TRANSFORMS for node in case.model.graph.node):
        atol = max(atol, *(4 * np.finfo(e.dtype).eps * np.abs(e).max() for e in expected))
    result = compare(actual, expected, case.rtol, atol)
    if result == "wrong: other values":
        if any(node.op_type in RANDOM for node in case.model.graph.node):
            return "random: numbers that other generators than NumPy's draw"
        if engine == OURS and _is_as_ort(case, shapes, inputs, actual, atol):
            return f"{AS_ORT}: {result}"
    return kind if result == RIGHT else result


def _is_as_ort(
    case: TestCase,
    shapes: Mapping[str, tuple[int, ...]],
    inputs: list[Any],
    actual: list[Any],
    atol: float,
) -> bool:
    """Return whether outputs are those of ONNX Runtime, if it runs the test."""
    try:
        expected, _ = ENGINES[ORT](case.model, shapes)(inputs)
    # ONNX Runtime's errors share no base class below Exception.
    except Exception:
        return False
    return compare(actual, expected, case.rtol, atol) == RIGHT


def _value(value: Any) -> Any:
    """Return a value of a test as an array, or a list of arrays, or None."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list):
        return [*map(_value, value)]
    return value if value is None else np.asarray(value)


def compare(actual: Sequence[Any], expected: Sequence[Any], rtol: float, atol: float) -> str:
    """Return "right", or how outputs are wrong, by the rules of ``onnx.backend.test.runner``."""
    if len(actual) != len(expected):
        return f"wrong: {len(actual)} outputs, expected {len(expected)}"
    for a, e in zip(actual, expected, strict=True):
        if a is None or e is None or isinstance(a, list) or isinstance(e, list):
            is_right = (
                compare(a, e, rtol, atol) == RIGHT
                if isinstance(a, list) and isinstance(e, list)
                else a is e
            )
            if not is_right:
                return "wrong: other values"
            continue
        if (a.shape, a.dtype) != (e.shape, e.dtype):
            return f"wrong: {a.dtype}{list(a.shape)}, expected {e.dtype}{list(e.shape)}"
        if e.dtype == object:
            close = np.array_equal(a, e)
        else:
            if e.dtype.name == "bfloat16":
                rtol = max(rtol, 2**-6)
            wide = np.result_type(e.dtype, np.float32) if e.dtype.kind == "V" else e.dtype
            close = np.allclose(a.astype(wide), e.astype(wide), rtol, atol, equal_nan=True)
        if not close:
            return "wrong: other values"
    return RIGHT


def is_accepted(outcome: str) -> bool:
    """Return whether a test ended right or in a clear refusal; all else is a fault of ours."""
    return outcome.split(":")[0] in ACCEPTED


class Worker:
    """A process that runs tests with one engine and is started again when it crashes."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Connection

    def __call__(self, name: str) -> str:
        """Return the outcome of the test `name`."""
        if self._process is None:
            self._pipe, end = self._context.Pipe()
            self._process = self._context.Process(target=_serve, args=(self.engine, end))
            self._process.start()
            end.close()
            self._pipe.recv()
        try:
            self._pipe.send(name)
            if self._pipe.poll(SECONDS):
                return str(self._pipe.recv())
            reason = f"timeout: after {SECONDS} s"
        except (EOFError, ConnectionError):
            reason = "crash: the process ended"
        self.close()
        return reason

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(engine: str, pipe: Connection) -> None:
    import tvm  # noqa: F401  (imported before the clock of the first test starts)

    known = cases()
    pipe.send("ready")
    while True:
        with warnings.catch_warnings(action="ignore"):
            pipe.send(outcome(engine, known[pipe.recv()]))


def run_all(
    names: Sequence[str], engines: Sequence[str] = tuple(ENGINES), path: Path | None = None
) -> dict[str, dict[str, str]]:
    """Return the outcomes of each test by engine; those in the file `path` are not run again.

    Parameters
    ----------
    names : sequence of str
        The tests.
    engines : sequence of str
        The engines.
    path : Path, optional
        A file that gets a line for each outcome as soon as it is known.
    """
    outcomes: dict[str, dict[str, str]] = {name: {} for name in names}
    if path is not None and path.exists():
        for line in path.read_text().splitlines():
            name, engine, result = json.loads(line)
            if name in outcomes:
                outcomes[name][engine] = result
    for engine in engines:
        worker = Worker(engine)
        try:
            for name in names:
                if engine in outcomes[name]:
                    continue
                outcomes[name][engine] = worker(name)
                if path is not None:
                    with path.open("a") as file:
                        file.write(json.dumps([name, engine, outcomes[name][engine]]) + "\n")
        finally:
            worker.close()
    return outcomes


def record_of(outcomes: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return which tests each engine gets right, and which ours does through ONNX Runtime."""
    right = {
        engine: [name for name, result in outcomes.items() if result[engine] in RIGHT_KINDS]
        for engine in ENGINES
    }
    through = [name for name, result in outcomes.items() if result[OURS] == THROUGH]
    return {"onnx": onnx.__version__, "cases": len(outcomes), **right, "through": through}


def table(record: Mapping[str, Any]) -> str:
    """Return the compatibility table of a record in Markdown."""
    kinds = {name: _domain(case) for name, case in cases().items()}
    lines = [
        f"| node tests of onnx {record['onnx']} | number | TVM 0.27 by itself | ONNX Runtime "
        "| tvm-sparse | of these, with nodes in ONNX Runtime |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, number in Counter(kinds.values()).items():
        counts = [
            sum(kinds[name] == kind for name in record[column])
            for column in (TVM, ORT, OURS, "through")
        ]
        lines.append(f"| {kind} | {number} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def _domain(case: TestCase) -> str:
    """Return which part of the operator set a test is about."""
    if {node.domain for node in case.model.graph.node} - {"", "ai.onnx"}:
        return "ai.onnx.ml, preview, training"
    return "ai.onnx, functions written out" if "_expanded" in case.name else "ai.onnx"


def main() -> None:
    """Run the tests, print the table, what is wrong, and what only another engine gets right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--match", default="*", metavar="PATTERN")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--outcomes", type=Path, help="file that holds all outcomes")
    parser.add_argument("--record", type=Path, help="file to write the names of the right ones to")
    arguments = parser.parse_args()
    outcomes = run_all(sorted(cases(arguments.match)), arguments.engines, arguments.outcomes)
    faults = 0
    for name, result in outcomes.items():
        faults += not is_accepted(result.get(OURS, RIGHT))
        others = [engine for engine in (ORT, TVM) if result.get(engine) == RIGHT]
        if result.get(OURS, RIGHT) not in RIGHT_KINDS and (others or not is_accepted(result[OURS])):
            print(f"{name}: {result[OURS]} (right: {', '.join(others) or 'none'})")
    if set(arguments.engines) == set(ENGINES):
        record = record_of(outcomes)
        if arguments.match == "*":
            print(table(record))
        if arguments.record:
            arguments.record.write_text(json.dumps(record, indent=0) + "\n")
    if faults:
        raise SystemExit(f"{faults} tests end wrong, or in no clear error")


if __name__ == "__main__":
    main()

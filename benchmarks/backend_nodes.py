"""How much of ONNX compiles and is right: the backend node tests of the onnx package.

Every test is compiled and run twice: by this package, and by TVM alone (its Relax frontend and
default pipeline). Each engine works in a process of its own, since a wrong kernel may crash it.

    python benchmarks/backend_nodes.py                     # all tests: ten minutes
    python benchmarks/backend_nodes.py --match 'test_conv*'
    python benchmarks/backend_nodes.py --right tests/data/backend_nodes.json
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.case.test_case import TestCase

RIGHT = "right"
OURS, TVM = "tvm_sparse", "tvm"
SECONDS = 60
"""A test that takes longer to compile and run counts as failed; a typical one takes 0.2 s."""

ACCEPTED = (RIGHT, "ModelError", "InputError", "unsupported")
"""What a test may end in: the right outputs, or an error that says what is not supported."""

TRANSFORMS = ("DFT", "STFT")
"""Operators whose small results are differences of large sums, and have the rounding of those."""

RANDOM = ("Bernoulli", "Dropout", "RandomUniformLike")
"""Operators that draw random numbers; Dropout does so in training only."""

Run = Callable[[list[np.ndarray]], list[np.ndarray]]


def cases(match: str = "*") -> dict[str, TestCase]:
    """Return the node tests whose names match a shell pattern, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(action="ignore"):  # of tests that mean to divide by zero
        found = collect_testcases(None)
    return {case.name: case for case in found if fnmatch.fnmatch(case.name, match)}


def compile_ours(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Run:
    """Compile as a user of this package does: from a file."""
    import tvm_sparse

    with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        engine = tvm_sparse.compile(path, _dynamic(model, shapes), threads=1)
    return lambda inputs: list(engine.run(inputs).values())


def compile_tvm(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Run:
    """Compile as a user of TVM does."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    from tvm_sparse.cpu.profile import native

    mod = from_onnx(model, {name: list(shape) for name, shape in shapes.items()})
    machine = relax.VirtualMachine(tvm.compile(mod, native().to_target()), tvm.cpu())

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        result = machine["main"](*map(tvm.runtime.tensor, inputs))
        tensors = [result] if isinstance(result, tvm.runtime.Tensor) else result
        return [tensor.numpy() for tensor in tensors]

    return run


_ENGINES = {OURS: compile_ours, TVM: compile_tvm}


def outcome(engine: str, case: TestCase) -> str:
    """Compile and run a test; returns "right", or the kind of failure and its first line."""
    if not all(isinstance(v, np.ndarray | np.generic) for part in case.data_sets[0] for v in part):
        return "unsupported: a sequence or an optional"
    inputs, expected = ([*map(np.asarray, part)] for part in case.data_sets[0])
    names = [value.name for value in case.model.graph.input]
    shapes = {name: value.shape for name, value in zip(names, inputs, strict=True)}
    try:
        actual = _ENGINES[engine](case.model, shapes)(inputs)
    # Whatever an engine raises is the result of its test.
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    atol = case.atol
    if any(node.op_type in TRANSFORMS for node in case.model.graph.node):
        atol = max(atol, *(4 * np.finfo(e.dtype).eps * np.abs(e).max() for e in expected))
    result = compare(actual, expected, case.rtol, atol)
    if result != RIGHT and any(node.op_type in RANDOM for node in case.model.graph.node):
        return "unsupported: random numbers, which other generators than NumPy's draw"
    return result


def compare(
    actual: Sequence[np.ndarray], expected: Sequence[np.ndarray], rtol: float, atol: float
) -> str:
    """Return "right", or how outputs are wrong, by the rules of ``onnx.backend.test.runner``."""
    if len(actual) != len(expected):
        return f"wrong: {len(actual)} outputs, expected {len(expected)}"
    for a, e in zip(actual, expected, strict=True):
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


def _dynamic(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs that leave a dimension open."""
    return {
        value.name: shapes[value.name]
        for value in model.graph.input
        if any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }


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


def run_all(names: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the outcomes of each test by engine."""
    workers = [Worker(engine) for engine in _ENGINES]
    try:
        for name in names:
            yield name, {worker.engine: worker(name) for worker in workers}
    finally:
        for worker in workers:
            worker.close()


def table(outcomes: Mapping[str, Mapping[str, str]]) -> str:
    """Return the compatibility table in Markdown."""
    known = cases()
    kinds = {name: _domain(known[name]) for name in outcomes}
    lines = [
        f"| node tests of onnx {onnx.__version__} | number | TVM 0.27 | tvm-sparse |",
        "| --- | ---: | ---: | ---: |",
    ]
    for kind, number in Counter(kinds.values()).items():
        right = Counter(
            engine
            for name, result in outcomes.items()
            for engine in _ENGINES
            if kinds[name] == kind and result[engine] == RIGHT
        )
        lines.append(f"| {kind} | {number} | {right[TVM]} | {right[OURS]} |")
    return "\n".join(lines)


def _domain(case: TestCase) -> str:
    """Return which part of the operator set a test is about."""
    domains = {node.domain for node in case.model.graph.node} - {"", "ai.onnx"}
    if domains:
        return ", ".join(sorted(domains))
    return "ai.onnx, written out" if "_expanded" in case.name else "ai.onnx"


def main() -> None:
    """Run the tests, print the table, what is wrong, and what only TVM gets right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--match", default="*", metavar="PATTERN")
    parser.add_argument("--json", type=Path, help="file to write all outcomes to")
    parser.add_argument("--right", type=Path, help="file to write the names of the right ones to")
    arguments = parser.parse_args()
    outcomes = {}
    for name, result in run_all(sorted(cases(arguments.match))):
        outcomes[name] = result
        if result[OURS] != RIGHT == result[TVM] or not is_accepted(result[OURS]):
            print(f"{name}: {result[OURS]}", flush=True)
    print(table(outcomes))
    if arguments.json:
        arguments.json.write_text(json.dumps(outcomes, indent=1))
    if arguments.right:
        right = {
            engine: [name for name, result in outcomes.items() if result[engine] == RIGHT]
            for engine in _ENGINES
        }
        record = {"onnx": onnx.__version__, "cases": len(outcomes), **right}
        arguments.right.write_text(json.dumps(record, indent=0) + "\n")
    if faults := [name for name, result in outcomes.items() if not is_accepted(result[OURS])]:
        raise SystemExit(f"{len(faults)} tests end wrong, or in no clear error")


if __name__ == "__main__":
    main()

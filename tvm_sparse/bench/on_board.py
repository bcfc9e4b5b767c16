"""Measures a model on a board, after a comparison of its outputs with those of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tvm_sparse.bench import multiply_adds
from tvm_sparse.bench.arrays import graph_inputs, output_error, random_inputs, read_arrays
from tvm_sparse.bench.comparison import TOLERANCES
from tvm_sparse.bench.peers import OURS, REFERENCE, PeerProcess
from tvm_sparse.bench.results import Comparison, EngineResult, check_turns
from tvm_sparse.cpu.threads import check_threads
from tvm_sparse.errors import RemoteError
from tvm_sparse.files import scratch_folder
from tvm_sparse.frontends.input_shapes import bind_shapes
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.runtime.board import Board
from tvm_sparse.runtime.isolated import CommandError, IsolatedProcess, ProcessDied
from tvm_sparse.runtime.library import is_library, read_info
from tvm_sparse.specs import TensorSpec
from tvm_sparse.version import __version__

WAIT_SECONDS = 300.0
"""Seconds to wait for a board that others use."""

LOAD_SECONDS = 60.0
"""Seconds that the load of a library may take besides the transfer of its bytes."""

SLOWEST_NETWORK = 1e6
"""Bytes a second that the transfer of a library reaches at least."""

RUN_SECONDS = 600.0
"""Seconds that the first run may take, and that a round may take beyond its expected time."""

LEAST_RUNS = 3
"""Fewest runs in a round."""


def measure_on_board(
    model: Path,
    board: Board,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    target: str = "native",
    threads: int | None = None,
    rounds: int = 7,
    seconds: float = 0.5,
    iterations: int | None = None,
    tolerance: float = 1e-4,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Comparison:
    """Compile a model here, run it on a board, check and time it.

    Parameters
    ----------
    model : Path
        An ONNX file; or a compiled library, whose outputs are not checked.
    board : Board
        The board to run on.
    shapes : mapping of str to sequence of int, optional
        Shapes of the inputs that have dynamic dimensions.
    target : str
        The name of the board's CPU profile; a library has its own.
    threads : int, optional
        The number of threads on the board; by default as many as its RPC server gives.
    options : mapping, optional
        Other arguments of `tvm_sparse.compile`.
    rounds, seconds, iterations, tolerance, progress
        As `tvm_sparse.bench.comparison.compare` takes them; the board takes the times.

    Returns
    -------
    Comparison
        The comparison has one engine; its share of the peak is not known.

    Raises
    ------
    RemoteError
        If the board cannot be reached, cannot load the library, or is lost.
    ModelError, InputError, TargetError, LibraryError
        As `tvm_sparse.compile` raises them.
    """
    check_turns(rounds, seconds, iterations)
    check_threads(threads)
    is_ours = model.is_file() and is_library(model)
    if is_ours:
        read_info(model)  # A damaged library would end the board's server.
    board.check()  # before the compilation, which takes long
    with scratch_folder() as scratch:
        result = EngineResult(OURS, __version__)
        work, library, expected = None, model, None
        if not is_ours:
            progress("compiling")
            bound, data = read_model(model)
            bind_shapes(bound, shapes)
            work = multiply_adds.count_multiply_adds(bound, data)
            inputs = random_inputs(graph_inputs(bound))
            del bound
            library = scratch / "model.so"
            lists = {name: list(shape) for name, shape in (shapes or {}).items()}
            compiling = {"shapes": lists, "target": target, "threads": threads, **(options or {})}
            result = _compile(result, model, library, compiling)
            progress("running ONNX Runtime here")
            expected = _reference(model, inputs, scratch)
        with _BoardProcess(board) as process:
            progress(f"loading on {board}")
            process.call("connect", WAIT_SECONDS, **asdict(board))
            size = library.stat().st_size
            limit = LOAD_SECONDS + size / SLOWEST_NETWORK
            answer = process.call("load", limit, library=str(library), threads=threads)
            result = replace(
                result,
                load_seconds=answer["seconds"],
                library_bytes=size,
                precision=answer["precision"],
            )
            if expected is None:
                specs = (
                    TensorSpec(s["name"], tuple(s["shape"]), s["dtype"]) for s in answer["inputs"]
                )
                inputs = random_inputs(specs)
            np.savez(scratch / "inputs.npz", *inputs.values())
            paths = {name: str(scratch / f"{name}.npz") for name in ("inputs", "outputs")}
            process.call("run", RUN_SECONDS, **paths)
            if expected is not None:
                error = output_error(read_arrays(scratch / "outputs.npz"), expected)
                result = replace(result, output_error=error)
                if not error <= max(tolerance, TOLERANCES.get(result.precision, 0)):
                    result = replace(result, failure=f"wrong outputs: relative error {error:.1e}")
            if not result.failure:
                runs = -(-iterations // rounds) if iterations is not None else None
                result = replace(result, rounds=_time(process, rounds, seconds, runs, progress))
        return Comparison(f"{model.stem} on {board}", answer["threads"], (result,), work, 0.0)


def _compile(
    result: EngineResult, model: Path, library: Path, options: Mapping[str, Any]
) -> EngineResult:
    """Compile in another process, and note its time and memory."""
    with PeerProcess(OURS) as process:
        answer = process.call(
            "compile", model=str(model), library=str(library), options=dict(options)
        )
        peak = process.call("memory")["peak_bytes"]
    return replace(result, compile_seconds=answer["seconds"], compile_peak_bytes=peak)


def _reference(model: Path, inputs: Mapping[str, np.ndarray], scratch: Path) -> list[np.ndarray]:
    """Return ONNX Runtime's outputs."""
    np.savez(scratch / "reference_inputs.npz", *inputs.values())
    with PeerProcess(REFERENCE) as process:
        process.call("load", path=str(model), threads=1)
        process.call("inputs", path=str(scratch / "reference_inputs.npz"), names=list(inputs))
        process.call("outputs", path=str(scratch / "reference.npz"))
    return read_arrays(scratch / "reference.npz")


def _time(
    process: _BoardProcess,
    rounds: int,
    seconds: float,
    runs: int | None,
    progress: Callable[[str], None],
) -> tuple[tuple[float, ...], ...]:
    """Return the seconds of every run, round by round."""
    pilot = min(process.call("measure", RUN_SECONDS, runs=LEAST_RUNS)["seconds"])
    runs = runs or max(LEAST_RUNS, int(seconds / max(pilot, 1e-6)))
    results = []
    for number in range(rounds):
        progress(f"timing, round {number + 1} of {rounds}")
        answer = process.call("measure", RUN_SECONDS + 10 * runs * pilot, runs=runs)
        results.append(tuple(answer["seconds"]))
    return tuple(results)


class _BoardProcess(IsolatedProcess):
    """`tvm_sparse.bench.board_worker`, whose failures are errors of the board."""

    def __init__(self, board: Board) -> None:
        super().__init__("tvm_sparse.bench.board_worker")
        self._board = board

    def __enter__(self) -> _BoardProcess:
        return self

    def call(self, command: str, limit: float, **arguments: object) -> dict[str, Any]:
        """Send a command and return the answer.

        Raises
        ------
        RemoteError
            If the command fails, the process ends, or the time is over.
        """
        try:
            return super().call(command, limit, **arguments)
        except CommandError as error:
            raise RemoteError(str(error).removeprefix("RemoteError: ")) from None
        except ProcessDied as error:
            raise RemoteError(f"{self._board}: the session was lost: {error}") from None

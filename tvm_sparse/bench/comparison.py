"""Compares engines on one model: first their outputs, then their times in turns.

Every engine has a process, which is stopped while another engine runs. In a round each engine has
one burst of runs, so that a slow phase of the machine hits all engines; ratios are taken round by
round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tvm_sparse.bench import multiply_adds
from tvm_sparse.bench.arrays import graph_inputs, output_error, random_inputs, read_arrays
from tvm_sparse.bench.peers import (
    IN_FLOAT32,
    OURS,
    PEERS,
    REFERENCE,
    PeerError,
    PeerProcess,
)
from tvm_sparse.bench.results import Comparison, EngineResult, check_turns
from tvm_sparse.cpu.this_machine import usable_cores
from tvm_sparse.cpu.threads import check_threads
from tvm_sparse.errors import InputError
from tvm_sparse.files import scratch_folder
from tvm_sparse.frontends.input_shapes import bind_shapes
from tvm_sparse.frontends.onnx_file import read_model, write_model

Inputs = Mapping[str, np.ndarray]

TOLERANCES = {"float16": 0.25, "bfloat16": 0.5}
"""The largest error of engines that compute in 16 bits, as a share of the largest output.

The tables show it. Networks of random weights may enlarge the rounding of a layer fifty times, as
`tvm_sparse.verification.comparison.NOISE` says; what is wrong has an error of about 1.
"""


@dataclass
class _Contender:
    """An engine on its way through the benchmark."""

    result: EngineResult
    process: PeerProcess | None = None
    rounds: list[tuple[float, ...]] = field(default_factory=list)

    def fail(self, reason: str) -> None:
        self.result = replace(self.result, failure=reason, rounds=())
        self.process = None


def compare(
    model: Path | None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    engines: Sequence[str] = (OURS, *PEERS),
    library: Path | None = None,
    inputs: Inputs | None = None,
    threads: int | None = None,
    rounds: int = 7,
    seconds: float = 0.5,
    iterations: int | None = None,
    tolerance: float = 1e-4,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Comparison:
    """Check and time engines on one model.

    Parameters
    ----------
    model : Path, optional
        An ONNX file, which is only read. Without it, only a library can be measured.
    shapes : mapping of str to sequence of int, optional
        Shapes of the inputs that have dynamic dimensions.
    engines : sequence of str
        ``"tvm-sparse"`` and names of `tvm_sparse.bench.peers.PEERS`. An engine that is not
        installed or fails stays in the result, with the reason. A peer computes in the precision
        that it chooses by itself; if that is not float32, it is measured in float32, too.
    library : Path, optional
        Our compiled library; by default it is compiled from the model.
    inputs : mapping of str to array, optional
        The inputs; by default `random_inputs` of the model.
    threads : int, optional
        The number of threads of every engine; by default all usable cores, of which ours uses one
        for a small network.
    rounds : int
        Number of rounds.
    seconds : float
        The seconds of an engine's burst in a round, which has at least three runs.
    iterations : int, optional
        The runs of every engine in all rounds together, in place of `seconds`.
    tolerance : float
        The largest error in float32, as a share of the largest output; an engine with a larger one
        is not timed. In fewer bits, errors may be as large as `TOLERANCES`.
    options : mapping, optional
        Further arguments of `tvm_sparse.compile`.
    progress : callable
        Called with a line of text before each step.

    Returns
    -------
    Comparison

    Raises
    ------
    ModelError, InputError
        If the model cannot be read, the shapes or inputs do not fit, an engine is unknown, or
        nothing would be measured.
    """
    check_turns(rounds, seconds, iterations)
    check_threads(threads)
    unknown = [engine for engine in engines if engine not in (OURS, *PEERS)]
    if unknown:
        raise InputError(f"unknown engine {unknown[0]!r}: it is one of {', '.join(PEERS)}")
    given, threads = threads, threads or usable_cores()
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        work = None
        if model is not None:
            bound, folder = read_model(model)
            bind_shapes(bound, shapes)
            work = multiply_adds.count_multiply_adds(bound, folder)
            inputs = inputs or random_inputs(graph_inputs(bound))
            static = _write_whole(bound, folder, scratch)
            del bound
        elif inputs is None or library is None or set(engines) != {OURS}:
            raise InputError("without an ONNX model, give a library and its inputs, and no peers")
        np.savez(scratch / "inputs.npz", *inputs.values())
        peak = 0.0 if work is None else _fma_peak()
        contenders: list[_Contender] = []
        names = list(inputs)

        def start(engine: str) -> _Contender:
            contender = _Contender(EngineResult(engine))
            contenders.append(contender)
            try:
                path = static if model is not None else None
                if engine == OURS:
                    path = library or _compile(
                        contender, model, shapes, given, scratch, options or {}, progress
                    )
                progress(f"loading {engine}")
                own_threads = given if engine == OURS else threads
                _load(contender, path, own_threads, names, scratch, stack)
            except PeerError as error:
                contender.fail(str(error))
            return contender

        for engine in engines:
            own = start(engine).result.precision
            if engine != OURS and own not in ("", "float32"):
                start(engine + IN_FLOAT32)
        _check_outputs(contenders, scratch, tolerance)
        running = [c for c in contenders if c.process is not None]
        burst: dict[str, float] = {"seconds": seconds}
        if iterations is not None:
            burst = {"seconds": 0, "least": -(-iterations // rounds)}
        for number in range(rounds):
            progress(f"timing, round {number + 1} of {rounds}")
            for contender in running:
                _time(contender, burst)
        results = tuple(_finish(contender) for contender in contenders)
    name = model.stem if model is not None else str(library)
    return Comparison(name, threads, results, work, peak)


def _fma_peak() -> float:
    """Return the multiply-adds a second that this machine reaches."""
    from tvm_sparse.cpu.peak_rates import fma_peak  # needs TVM's compiler

    return fma_peak()


def _write_whole(model: onnx.ModelProto, folder: Path, scratch: Path) -> Path:
    """Write the model with static shapes that all peers read; DeepSparse may rewrite the file."""
    path = scratch / "model.onnx"
    onnx.external_data_helper.load_external_data_for_model(model, str(folder))
    write_model(model, path)
    return path


def _compile(
    contender: _Contender,
    model: Path | None,
    shapes: Mapping[str, Sequence[int]] | None,
    threads: int | None,
    scratch: Path,
    options: Mapping[str, Any],
    progress: Callable[[str], None],
) -> Path:
    """Compile our library in another process, and note time and memory."""
    progress("compiling")
    path = scratch / "model.so"
    bound = {name: list(shape) for name, shape in (shapes or {}).items()}
    with PeerProcess(OURS) as process:
        answer = process.call(
            "compile",
            model=str(model),
            library=str(path),
            options={"shapes": bound, "threads": threads, **options},
        )
        peak = process.call("memory")["peak_bytes"]
    contender.result = replace(
        contender.result, compile_seconds=answer["seconds"], compile_peak_bytes=peak
    )
    return path


def _load(
    contender: _Contender,
    path: Path | None,
    threads: int | None,
    names: Sequence[str],
    scratch: Path,
    stack: ExitStack,
) -> None:
    assert path is not None
    engine = contender.result.engine
    process = stack.enter_context(PeerProcess(engine))
    forced = {"float32": True} if engine.endswith(IN_FLOAT32) else {}
    answer = process.call("load", path=str(path), threads=threads, **forced)
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*"))
    contender.result = replace(
        contender.result,
        version=answer["version"],
        note=answer["note"],
        precision=answer["precision"],
        load_seconds=answer["seconds"],
        library_bytes=path.stat().st_size if engine == OURS else size,
    )
    process.call("inputs", path=str(scratch / "inputs.npz"), names=names)
    process.call("outputs", path=str(scratch / f"{engine}.npz"))
    contender.process = process


def _check_outputs(contenders: Sequence[_Contender], scratch: Path, tolerance: float) -> None:
    """Fail every engine whose outputs differ from the reference's."""
    reference = scratch / f"{REFERENCE}.npz"
    if not reference.exists():
        return
    expected = read_arrays(reference)
    for contender in contenders:
        if contender.process is None or contender.result.engine == REFERENCE:
            continue
        actual = read_arrays(scratch / f"{contender.result.engine}.npz")
        error = output_error(actual, expected)
        contender.result = replace(contender.result, output_error=error)
        if not error <= max(tolerance, TOLERANCES.get(contender.result.precision, 0)):
            contender.fail(f"wrong outputs: relative error {error:.1e}")


def _time(contender: _Contender, burst: Mapping[str, float]) -> None:
    if contender.process is None:
        return
    try:
        samples = contender.process.call("run", **burst)["seconds"]
    except PeerError as error:
        contender.fail(str(error))
    else:
        contender.rounds.append(tuple(samples))


def _finish(contender: _Contender) -> EngineResult:
    if contender.process is None:
        return contender.result
    peak = contender.process.call("memory")["peak_bytes"]
    return replace(contender.result, rounds=tuple(contender.rounds), peak_bytes=peak)

"""The import table of quantized models: six exporters by eight families of small networks.

    python benchmarks/quantized.py compile FOLDER [FAMILY ...]   # and compares with ONNX Runtime
    python benchmarks/quantized.py time FOLDER                   # in turns with ONNX Runtime
    python benchmarks/openvino_times.py FOLDER THREADS           # in an environment with OpenVINO
    python benchmarks/quantized.py table FOLDER                  # prints all as Markdown

A cell says how much the output differs from that of ONNX Runtime without optimizations, as a share
of its root mean square; behind it stands how much ONNX Runtime differs from itself with and without
optimizations, since rounding to 8 bits enlarges the last bits. Then follow milliseconds: ours, ONNX
Runtime's, and OpenVINO's if it was timed. A star marks nodes that ONNX Runtime runs inside of the
library.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from quantized_dialects import DIALECTS, onnxruntime
from quantized_models import FAMILIES, write_network

import tvm_sparse

THREADS = 2
"""Threads of ONNX Runtime. Ours take as many as they are compiled for: all cores, or one."""
ROUNDS = 8
SECONDS_OF_A_TURN = 0.03
PAUSE_SECONDS = 0.01
"""How long a turn waits for the threads of the other engine, which spin on for a while."""


def session(path: Path, optimized: bool) -> Any:
    """Return a session of ONNX Runtime."""
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    )
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """Return the root mean square of a difference, as a share of that of `want`."""
    wide = want.astype("f8")
    return float(np.sqrt(np.mean((got - wide) ** 2) / np.mean(wide**2)))


def cells(families: Iterable[str] = FAMILIES) -> Iterator[tuple[str, str]]:
    """Yield the exporter and the family of each cell."""
    for family in families:
        for dialect in DIALECTS:
            yield dialect, family


def compile_cell(folder: Path, dialect: str, family: str) -> dict[str, Any]:
    """Write, compile and compare one model."""
    stem = f"{dialect} {family}".replace(" ", "_").lower()
    source, path = folder / f"{family}.onnx".lower(), folder / f"{stem}.onnx"
    shape = write_network(family, source)
    rng = np.random.default_rng(1)
    samples = [rng.standard_normal(shape).astype("f4") for _ in range(4)]
    DIALECTS[dialect](source, path, samples)
    start = time.perf_counter()
    engine = tvm_sparse.compile(path)
    seconds = time.perf_counter() - start
    engine.save(folder / f"{stem}.so")
    x = samples[0]
    (got,) = engine.run({"x": x}).values()
    plain, fast = (session(path, optimized).run(None, {"x": x})[0] for optimized in (False, True))
    (of_floats,) = session(source, False).run(None, {"x": x})
    return {
        "file": stem,
        "error": difference(got, plain),
        "onnxruntime": difference(fast, plain),
        "quantization": difference(plain, of_floats),
        "signal": float(np.std(plain)),
        "fallbacks": [fallback.operator for fallback in engine.info.fallbacks],
        "seconds": seconds,
        "shape": shape,
    }


def compile_all(folder: Path, families: Iterable[str]) -> None:
    """Compile the cells that are not compiled yet."""
    for dialect, family in cells(families):
        target = folder / f"{dialect} {family}.json"
        if target.exists():
            continue
        try:
            found = compile_cell(folder, dialect, family)
        except Exception as error:  # a cell says what went wrong
            found = {"failure": f"{type(error).__name__}: {error}"}
        target.write_text(json.dumps(found))
        print(dialect, family, json.dumps(found), flush=True)


def fastest(run: Callable[[], Any]) -> float:
    """Return the fewest seconds of a call in a turn."""
    time.sleep(PAUSE_SECONDS)
    best, end = np.inf, time.perf_counter() + SECONDS_OF_A_TURN
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def time_all(folder: Path) -> None:
    """Time every compiled cell in turns with ONNX Runtime; of several runs, the fastest counts."""
    for dialect, family in cells():
        path = folder / f"{dialect} {family}.json"
        found = json.loads(path.read_text()) if path.exists() else {"failure": ""}
        if "failure" in found:
            continue
        x = np.random.default_rng(1).standard_normal(found["shape"]).astype("f4")
        engine = tvm_sparse.load(folder / f"{found['file']}.so")
        peer = session(folder / f"{found['file']}.onnx", True)
        run, of_peer = partial(engine.run, {"x": x}), partial(peer.run, None, {"x": x})
        turns = [(fastest(run), fastest(of_peer)) for _ in range(ROUNDS)]
        ours, theirs = (1e3 * min(column) for column in zip(*turns, strict=True))
        ours = min(ours, found.get("ms", ours))
        theirs = min(theirs, found.get("onnxruntime_ms", theirs))
        path.write_text(json.dumps(found | {"ms": ours, "onnxruntime_ms": theirs}))


def table(folder: Path) -> str:
    """Return the table in Markdown."""
    times = folder / "openvino.times"
    openvino = json.loads(times.read_text()) if times.exists() else {}
    lines = [f"| | {' | '.join(DIALECTS)} |", f"| --- |{' --- |' * len(DIALECTS)}"]
    for family in FAMILIES:
        row = []
        for dialect in DIALECTS:
            path = folder / f"{dialect} {family}.json"
            found = json.loads(path.read_text()) if path.exists() else {"failure": "not run"}
            if "failure" in found:
                row.append(found["failure"][:60])
                continue
            star = "*" if found["fallbacks"] else ""
            text = f"{found['error']:.1e} ({found['onnxruntime']:.1e}){star}"
            if "ms" in found:
                text += f", {found['ms']:.3f} : {found['onnxruntime_ms']:.3f}"
                text += f" : {openvino[found['file']]}" if found["file"] in openvino else ""
            row.append(text)
        lines.append(f"| {family} | {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Run one step."""
    step, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    if step == "compile":
        compile_all(folder, sys.argv[3:] or FAMILIES)
    elif step == "time":
        time_all(folder)
    else:
        print(table(folder))


if __name__ == "__main__":
    main()

"""Milliseconds of each ONNX model in a folder in OpenVINO, which need not be where tvm-sparse is.

    python benchmarks/openvino_times.py FOLDER THREADS

writes them to ``openvino.times`` in the folder: the fastest of some hundred calls, or what went
wrong. Inputs are normal numbers.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import openvino

SECONDS = 0.12


def milliseconds(path: Path, threads: int) -> str:
    """Return the fastest call of a model of one input."""
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    try:
        compiled = openvino.Core().compile_model(path, "CPU", options)
        request = compiled.create_infer_request()
        x = np.random.default_rng(1).standard_normal(list(compiled.input(0).shape)).astype("f4")
        best, end = np.inf, time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            start = time.perf_counter()
            request.infer([x])
            best = min(best, time.perf_counter() - start)
    except RuntimeError as error:  # a cell says what went wrong
        return "refused: " + str(error).strip().splitlines()[-1][:60]
    return f"{1e3 * best:.3f}"


def main() -> None:
    """Time all models."""
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    found = {path.stem: milliseconds(path, threads) for path in sorted(folder.glob("*_*.onnx"))}
    (folder / "openvino.times").write_text(json.dumps(found))


if __name__ == "__main__":
    main()

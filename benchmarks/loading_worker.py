"""Loads a file, runs it, and says how long that took; the process of `loading.py`.

It imports nothing of this project before the engine, whose import it measures.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Print times and memory; after a line of input, print this process's share of its pages."""
    engine, file, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    times = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = function()
        times[name] = 1e3 * (time.perf_counter() - start)
        return result

    load = timed("import", _ENGINES[engine])
    run = timed("load", lambda: load(file, threads))
    timed("first", run)
    run()
    timed("run", run)
    sizes = {
        "resident": _kilobytes("status", "VmRSS"),
        "private": _kilobytes("smaps_rollup", "Private_Clean", "Private_Dirty"),
        "peak": _kilobytes("status", "VmHWM"),
    }
    print(json.dumps(times | {name: size / 1e3 for name, size in sizes.items()}), flush=True)
    sys.stdin.readline()
    print(_kilobytes("smaps_rollup", "Pss") / 1e3, flush=True)
    sys.stdin.readline()


def _tvm_sparse() -> Callable[[str, int], Callable[[], object]]:
    import tvm_sparse

    load = tvm_sparse.load  # imports what it needs

    def loaded(file: str, threads: int) -> Callable[[], object]:
        engine = load(file, threads=threads)
        inputs = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in engine.inputs}
        return lambda: engine.run(inputs)

    return loaded


def _onnxruntime() -> Callable[[str, int], Callable[[], object]]:
    from tvm_sparse.onnx_runtime import onnxruntime

    def loaded(file: str, threads: int) -> Callable[[], object]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        types = {"tensor(int64)": "int64", "tensor(float)": "float32"}
        inputs = {
            spec.name: np.zeros(
                [size if isinstance(size, int) else _OPEN.get(size, 128) for size in spec.shape],
                types[spec.type],
            )
            for spec in session.get_inputs()
        }
        return lambda: session.run(None, inputs)

    return loaded


def _deepsparse() -> Callable[[str, int], Callable[[], object]]:
    os.environ["NM_DISABLE_ANALYTICS"] = "True"
    import deepsparse

    def loaded(file: str, threads: int) -> Callable[[], object]:
        engine = deepsparse.Engine(file, batch_size=None, num_cores=threads)
        inputs = [np.zeros_like(array) for array in engine.generate_random_inputs()]
        return lambda: engine.run(inputs, val_inp=False)

    return loaded


_ENGINES = {"tvm_sparse": _tvm_sparse, "onnxruntime": _onnxruntime, "deepsparse": _deepsparse}

_OPEN = {"batch": 1, "batch_size": 1}
"""The sizes of open dimensions by name; others are 128, as in `tvm-sparse benchmark bert-base`."""


def _kilobytes(file: str, *names: str) -> int:
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in names)


if __name__ == "__main__":
    main()

"""Runs one inference engine in a process of its own, on commands read as JSON lines.

This file is a script for the Python of the engine (3.10 or newer), which lacks TVM and this
package, so it imports only NumPy and the engine. ``python peer_worker.py ENGINE`` reads one
JSON object a line from standard input and answers each with one line:

``{"do": "compile", "model": .., "library": .., "options": {..}}``  -> ``{"seconds": ..}``
``{"do": "load", "path": .., "threads": .., "float32": false}``
-> ``{"seconds": .., "version": .., "note": .., "precision": "float32"}``
``{"do": "inputs", "path": "x.npz", "names": [..]}``  -> ``{}``
``{"do": "outputs", "path": "y.npz"}``         -> ``{}``, arrays in the model's order
``{"do": "run", "seconds": ..}``               -> ``{"seconds": [one number an iteration]}``
``{"do": "memory"}``                           -> ``{"peak_bytes": ..}``

An answer ``{"error": ".."}`` reports an exception; the worker goes on.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_PR_SET_PDEATHSIG = 1


@dataclass
class Engine:
    """An inference engine that holds one model.

    Attributes
    ----------
    version, note : str
        The engine's version, and its remark on its settings.
    precision : str
        What it computes in.
    run : callable
        Runs one inference on the result of `prepare`; this call is timed.
    prepare : callable
        Turns named arrays into the form that the engine takes.
    arrays : callable
        Turns the result of `run` into a list of arrays in the order of the model.
    """

    version: str
    note: str
    run: Callable[[Any], Any]
    prepare: Callable[[dict[str, np.ndarray]], Any] = dict
    arrays: Callable[[Any], list[np.ndarray]] = list
    precision: str = "float32"


def open_onnxruntime(path: str, threads: int) -> Engine:
    """Open a model in ONNX Runtime with all its graph optimizations, without them if they fail.

    float32 is its best on x86: it has no kernels of float16 or bfloat16 arithmetic there.
    """
    import onnxruntime  # noqa: TID251

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    providers, note = ["CPUExecutionProvider"], ""
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    # ONNX Runtime's errors share no base class below Exception.
    except Exception as error:
        note = f"without optimizations, since they fail: {str(error).strip().splitlines()[0]}"
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    return Engine(onnxruntime.__version__, note, run=lambda inputs: session.run(None, inputs))


def open_deepsparse(path: str, threads: int) -> Engine:
    """Open a model in DeepSparse with its single-stream scheduler and threads bound to cores.

    Its interface has no choice of a precision; models of float32 run in float32.
    """
    import deepsparse

    engine = deepsparse.Engine(path, batch_size=None, num_cores=threads)
    share = engine.fraction_of_supported_ops
    return Engine(
        importlib.metadata.version("deepsparse"),
        f"{share:.0%} of operators supported, {engine.cpu_avx_type}",
        run=lambda inputs: engine.run(inputs, val_inp=False),
        prepare=lambda inputs: [inputs[name] for name in engine.input_names],
    )


def open_openvino(path: str, threads: int, float32: bool = False) -> Engine:
    """Open a model in OpenVINO with the latency hint, in its own choice of precision or float32.

    On processors with AMX, its own choice is bfloat16.
    """
    import openvino

    core = openvino.Core()
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if float32:
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = core.compile_model(core.read_model(path), "CPU", properties)
    request = compiled.create_infer_request()
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    names = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    return Engine(
        importlib.metadata.version("openvino"),
        "",
        run=lambda inputs: request.infer(inputs, share_inputs=True, share_outputs=True),
        arrays=lambda results: [results[index] for index in range(len(results))],
        precision=names.get(hint, hint),
    )


def open_tvm_sparse(path: str, threads: int | None) -> Engine:
    """Open a library that `tvm_sparse` compiled, on its own number of threads if none is given."""
    import tvm_sparse

    engine = tvm_sparse.load(path, threads=threads)
    is_small = threads is None and engine.threads == 1
    return Engine(
        tvm_sparse.__version__,
        "one thread, as compiled" if is_small else "",
        run=engine.run,
        arrays=lambda outputs: list(outputs.values()),
        precision=str(engine.info.precision),
    )


ENGINES: dict[str, tuple[str, Callable[..., Engine]]] = {
    "onnxruntime": ("onnxruntime", open_onnxruntime),
    "deepsparse": ("deepsparse", open_deepsparse),
    "openvino": ("openvino", open_openvino),
    "tvm-sparse": ("tvm_sparse.compiler", open_tvm_sparse),
}
"""For each engine, the module to import and the function that opens a model."""


class Worker:
    """Holds one engine; each method is a command and returns the answer.

    Imports are not timed.
    """

    engine: Engine
    prepared: Any

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def compile(self, model: str, library: str, options: dict[str, Any]) -> dict[str, Any]:
        """Compile an ONNX model with `tvm_sparse` and save the library."""
        from tvm_sparse import compiler

        start = time.perf_counter()
        compiler.compile(model, **options).save(library)
        return {"seconds": time.perf_counter() - start}

    def load(self, path: str, threads: int | None, float32: bool = False) -> dict[str, Any]:
        """Load a model, or a library if the engine is ours; perhaps told to compute in float32."""
        module, open_model = ENGINES[self.kind]
        importlib.import_module(module)
        start = time.perf_counter()
        self.engine = open_model(path, threads, **({"float32": True} if float32 else {}))
        seconds = time.perf_counter() - start
        about = {"version": self.engine.version, "note": self.engine.note}
        return {"seconds": seconds, "precision": self.engine.precision, **about}

    def inputs(self, path: str, names: list[str]) -> dict[str, Any]:
        """Set the inputs: arrays in the order of their names."""
        with np.load(path) as arrays:
            values = [arrays[key] for key in arrays.files]
        self.prepared = self.engine.prepare(dict(zip(names, values, strict=True)))
        return {}

    def outputs(self, path: str) -> dict[str, Any]:
        """Run once and write the outputs."""
        np.savez(path, *self.engine.arrays(self.engine.run(self.prepared)))
        return {}

    def run(self, seconds: float, warmup: int = 2, least: int = 3) -> dict[str, Any]:
        """Run for a time, `least` times at least, after `warmup` runs that do not count."""
        run, inputs, clock = self.engine.run, self.prepared, time.perf_counter
        for _ in range(warmup):
            run(inputs)
        samples: list[float] = []
        end = clock() + seconds
        while len(samples) < least or clock() < end:
            start = clock()
            run(inputs)
            samples.append(clock() - start)
        return {"seconds": samples}

    def memory(self) -> dict[str, Any]:
        """Return the peak resident memory of this process, in bytes."""
        # The peak of getrusage would include that of the process that this one was forked from.
        status = Path("/proc/self/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return {"peak_bytes": int(peak.split()[1]) * 1024}


def main(kind: str) -> None:
    """Answer commands until standard input ends, or the parent does."""
    # The parent stops this process between commands; Linux kills it with the parent all the same.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Engines print banners, so only answers use the real standard output.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # The engines read these when they are imported: no telemetry of ONNX Runtime and DeepSparse,
    # and DeepSparse's threads bound to cores as in its own benchmark.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ["NM_DISABLE_ANALYTICS"] = "True"
    os.environ.setdefault("NM_BIND_THREADS_TO_CORES", "1")
    worker = Worker(kind)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        # Every error of an engine is an answer.
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    # Python puts this folder first in the path; its modules would hide those of the same names.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    main(sys.argv[1])

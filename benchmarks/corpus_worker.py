"""One step of the corpus on one model, in a process that may crash or hang without harm.

    python corpus_worker.py compile|check|time FOLDER

The folder holds ``model.onnx``, ``inputs.npz`` and ``settings.json``. Every step writes what it
found to ``STEP.json`` there; ``compile`` also writes the library, which the other two load.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from scripts import run_script

import tvm_sparse
from tvm_sparse.bench.arrays import output_error
from tvm_sparse.bench.comparison import compare
from tvm_sparse.bench.peers import OURS, REFERENCE
from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.passes.ir.operators.operator import PREFIX
from tvm_sparse.passes.ir.operators.table import OPERATORS
from tvm_sparse.report.analysis import OperatorReport, analyze

MODEL, INPUTS, LIBRARY, SETTINGS = "model.onnx", "inputs.npz", "model.so", "settings.json"
"""The names of the files of a model in its folder."""

_RENAMES = ("expand_dims", "reshape", "squeeze")
"""Operators that compute nothing: the same bytes have another shape."""
_OWN = {name.removeprefix(PREFIX) for name in OPERATORS if name.startswith(PREFIX)}
_ROUNDING = ("Quant", "Integer")
"""Operators with these words in their names round to eight bits."""
_CLOSE = 1e-4
"""The difference up to which a model of float32 needs no other measure."""
_DISTURBED = 4
"""How many times ONNX Runtime runs a model with other last bits."""

Found = dict[str, Any]
Settings = Mapping[str, Any]


def compile_model(folder: Path, settings: Settings) -> Found:
    """Compile and save a model; return the time, the layers, and who computes its operators."""
    shapes = {name: array.shape for name, array in _inputs(folder).items()}
    threads = settings["threads"]
    start, cpu_start = time.monotonic(), time.process_time()
    engine = tvm_sparse.compile(folder / MODEL, shapes, threads=threads)
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
    engine.save(folder / LIBRARY)
    assert engine.report is not None
    layers = engine.report.layers
    operators = analyze(folder / MODEL, shapes, threads=threads).operators
    ours = sum(map(_is_ours, operators))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "nodes": sum(1 for _ in _nodes(onnx.load(folder / MODEL, load_external_data=False).graph)),
        "ours": ours,
        "tvm": sum(map(_is_tvm, operators)),
        "fallbacks": [
            {"operator": fallback.operator, "nodes": len(fallback.nodes), "why": fallback.reason}
            for fallback in engine.info.fallbacks
        ],
        "sparse_layers": sum(layer.is_sparse for layer in layers),
        "dense_layers": sum(not layer.is_sparse for layer in layers),
        "warnings": engine.report.warnings,
    }


def _is_ours(operator: OperatorReport) -> bool:
    return operator.region is not None or operator.operator in _OWN


def _is_tvm(operator: OperatorReport) -> bool:
    """Return whether TVM lowers an operator: neither ours, nor a call of ONNX Runtime."""
    is_call = operator.operator.startswith("call_")
    return not (_is_ours(operator) or is_call or operator.operator in _RENAMES)


def check_model(folder: Path, settings: Settings) -> Found:
    """Load and run a library; return its difference from ONNX Runtime without optimizations.

    Some models round to 8 or 16 bits on the way. A value between two steps then falls to either
    side by the last bits of what was computed before, so that no two programs agree. Others
    amplify what float32 rounds, such as by the logarithm of a small difference. For these,
    the result also holds how far ONNX Runtime is from itself: with optimized kernels, and with
    inputs and weights whose last bits are other ones.
    """
    inputs = _inputs(folder)
    engine = tvm_sparse.load(folder / LIBRARY, threads=settings["threads"])
    outputs = list(engine.run(inputs).values())
    model = onnx.load(folder / MODEL)
    expected = _onnxruntime(model, inputs, optimized=False)
    dtypes = [array.dtype for array in outputs] == [array.dtype for array in expected]
    found = {"difference": output_error(outputs, expected) if dtypes else float("inf")}
    if not _rounds(model) and found["difference"] <= _CLOSE:
        return found
    own = output_error(_onnxruntime(model, inputs, optimized=True), expected)
    for seed in range(_DISTURBED):
        others = _onnxruntime(*_disturbed(model, inputs, seed), optimized=False)
        own = max(own, output_error(others, expected))
    return {**found, "own": own}


def _disturbed(
    model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], seed: int
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a model and inputs that differ in the last bits of their floating-point values."""
    rng = np.random.default_rng(seed)

    def disturb(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind != "f":
            return array
        noise = np.finfo(array.dtype).eps * rng.standard_normal(array.shape)
        return np.asarray(array * (1 + noise), array.dtype)

    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        array = disturb(onnx.numpy_helper.to_array(tensor))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return other, {name: disturb(array) for name, array in inputs.items()}


def _onnxruntime(
    model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], optimized: bool
) -> list[np.ndarray]:
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    )
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, dict(inputs)))


def time_model(folder: Path, settings: Settings) -> Found:
    """Measure a library and ONNX Runtime in turns; return the seconds of their fastest runs."""
    inputs = _inputs(folder)
    result = compare(
        folder / MODEL,
        {name: array.shape for name, array in inputs.items()},
        engines=(OURS, REFERENCE),
        library=folder / LIBRARY,
        inputs=inputs,
        threads=settings["threads"],
        rounds=settings["rounds"],
        seconds=settings["seconds"],
        tolerance=float("inf"),  # the step "check" compares
    )
    failures = [measured.failure for measured in result.measurements if measured.failure]
    if failures:
        return {"failure": "; ".join(failures)}
    return {engine: result[engine].minimum for engine in (OURS, REFERENCE)}


def _inputs(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / INPUTS) as arrays:
        return dict(arrays)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of its branches and loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _nodes(inner)


def _rounds(model: onnx.ModelProto) -> bool:
    """Return whether a model computes in 8 or 16 bits."""
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return any(tensor.data_type in half for tensor in model.graph.initializer) or any(
        word in node.op_type for node in _nodes(model.graph) for word in _ROUNDING
    )


STEPS: Mapping[str, Callable[[Path, Settings], Found]] = {
    "compile": compile_model,
    "check": check_model,
    "time": time_model,
}


def main() -> None:
    """Do one step."""
    step, folder = sys.argv[1], Path(sys.argv[2])
    found = STEPS[step](folder, json.loads((folder / SETTINGS).read_text()))
    (folder / f"{step}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    run_script(main)

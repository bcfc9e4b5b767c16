"""The engines that run ONNX's node tests: this package, ONNX Runtime, and TVM alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

RIGHT = "right"
THROUGH = "right through ONNX Runtime"
"""The outputs are right, and ONNX Runtime ran nodes of the model inside of the library."""

OURS, ORT, TVM = "tvm_sparse", "onnxruntime", "tvm"
Run = Callable[[list[Any]], tuple[list[Any], str]]
"""Returns the outputs for the inputs of a test, and how they count if they are right."""


def compile_ours(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Run:
    """Compile as a user of this package does: from a file."""
    import tvm_sparse
    from tvm_sparse.frontends.failures import FAILED

    with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        engine = tvm_sparse.compile(path, _dynamic(model, shapes), threads=1)
    for found in engine.info.fallbacks:
        if found.reason.startswith(FAILED):
            return lambda inputs: ([], f"failed: {found}")
    kind = THROUGH if engine.info.fallbacks else RIGHT
    return lambda inputs: (list(engine.run(inputs).values()), kind)


def compile_ort(model: onnx.ModelProto, _shapes: Mapping[str, tuple[int, ...]]) -> Run:
    """Make a session as a user of ONNX Runtime does, for one thread and without optimizations."""
    from tvm_sparse.onnx_runtime import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def value(array: Any, info: onnx.ValueInfoProto) -> Any:
        if isinstance(array, np.ndarray) and array.dtype.kind == "V":  # as of ml_dtypes
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
                array, info.type.tensor_type.elem_type
            )
        return array

    def run(inputs: list[Any]) -> tuple[list[Any], str]:
        feeds = {
            info.name: value(array, info)
            for info, array in zip(model.graph.input, inputs, strict=True)
        }
        return session.run(None, feeds), RIGHT

    return run


def compile_tvm(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Run:
    """Compile as a user of TVM does."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    from tvm_sparse.cpu.profile import native

    mod = from_onnx(model, {name: list(shape) for name, shape in shapes.items()})
    machine = relax.VirtualMachine(tvm.compile(mod, native().to_target()), tvm.cpu())

    def run(inputs: list[Any]) -> tuple[list[Any], str]:
        result = machine["main"](*map(tvm.runtime.tensor, inputs))
        tensors = [result] if isinstance(result, tvm.runtime.Tensor) else result
        return [tensor.numpy() for tensor in tensors], RIGHT

    return run


ENGINES = {OURS: compile_ours, ORT: compile_ort, TVM: compile_tvm}


def _dynamic(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs that leave a dimension open."""
    return {
        value.name: shapes[value.name]
        for value in model.graph.input
        if value.name in shapes
        and any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }

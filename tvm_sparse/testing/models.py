"""Small models, random pruned weights, and their results in ONNX Runtime."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import tvm
from numpy.typing import NDArray
from tvm import relax

if TYPE_CHECKING:
    pass

Emit = Callable[[relax.Expr], relax.Var]


@contextlib.contextmanager
def needs_tool(missing: type[Exception]) -> Iterator[None]:
    """Skip a test if `missing` is raised because a tool is not installed.

    In continuous integration, where the environment variable CI is ``true``, the test fails.
    """
    import pytest

    try:
        yield
    except missing as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def pruned(rng: np.random.Generator, shape: Sequence[int], density: float) -> NDArray[np.float32]:
    """Return random weights of which about `density` are not zero."""
    kept = rng.random(shape) < density
    return np.where(kept, rng.standard_normal(shape), 0).astype("float32")


def dataflow(body: Callable[..., relax.Expr], *shapes: Sequence[int]) -> tvm.IRModule:
    """Return a module whose ``main`` takes float32 tensors and computes ``body(emit, *tensors)``.

    `emit` binds an expression to a variable of the dataflow block.
    """
    builder = relax.BlockBuilder()
    params = [
        relax.Var(f"x{i}", relax.TensorType(tuple(shape), "float32"))
        for i, shape in enumerate(shapes)
    ]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(body(builder.emit, *params))
        builder.emit_func_output(result)
    return builder.get()


def operators_of(mod: tvm.IRModule) -> list[str]:
    """Return the names of the operators that ``main`` calls, in order, without ``relax.``."""
    names: list[str] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            names.append(expr.op.name.removeprefix("relax."))

    relax.analysis.post_order_visit(mod["main"], visit)
    return names


def run(executable: relax.VMExecutable, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run ``main`` of a compiled module that returns one tensor."""
    machine = relax.VirtualMachine(executable, tvm.cpu())
    return machine["main"](*[tvm.runtime.tensor(x) for x in inputs]).numpy()


def write_onnx(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    weights: Mapping[str, NDArray[Any]],
    opset: int = 17,
    domains: Sequence[str] = (),
    **options: Any,
) -> Path:
    """Write an ONNX model of float32 inputs and outputs, and return `path`.

    `weights` become initializers; `options` go to ``onnx.save``.
    """
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, float32, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, float32, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path, **options)
    return path


def write_mlp(path: Path, density: float = 0.1, opset: int = 17, **options: Any) -> Path:
    """Write ``y = relu(x w0 + b0) w1`` of widths 32, 64, 48 and dynamic batch and tokens."""
    rng, node = np.random.default_rng(0), onnx.helper.make_node
    weights = {
        "w0": pruned(rng, (32, 64), density),
        "b0": rng.standard_normal(64).astype("float32"),
        "w1": pruned(rng, (64, 48), density),
    }
    nodes = [
        node("MatMul", ["x", "w0"], ["h"], name="/up/MatMul"),
        node("Add", ["h", "b0"], ["a"], name="/up/Add"),
        node("Relu", ["a"], ["r"], name="/Relu"),
        node("MatMul", ["r", "w1"], ["y"], name="/down/MatMul"),
    ]
    return write_onnx(path, nodes, {"x": ["batch", "tokens", 32]}, ["y"], weights, opset, **options)


def onnxruntime_outputs(path: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return what ONNX Runtime computes without its own optimizations."""
    from tvm_sparse.onnx_runtime import exact_options, onnxruntime
    from tvm_sparse.verification.unsigned_weights import with_unsigned_weights

    options = exact_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = onnx.load(path, load_external_data=False)
    changed = with_unsigned_weights(model, path.parent)
    content = path if changed is model else changed.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(inputs)), strict=True))

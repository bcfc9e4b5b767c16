"""Counts a model's multiply-adds, in all and at non-zero weights, from its ONNX graph alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from tvm_sparse.files import scratch_folder
from tvm_sparse.frontends.onnx_file import tensor_array
from tvm_sparse.frontends.value_types import value_types
from tvm_sparse.onnx_runtime import onnxruntime

# Smaller initializers may be shapes or axes, whose values shape inference needs.
_WEIGHT_SIZE = 1024


@dataclass(frozen=True)
class MultiplyAdds:
    """The multiply-adds of one inference.

    Attributes
    ----------
    total : int
        The multiply-adds of a dense run.
    nonzero : int
        Those whose weight is not zero; products of two activations count in full.
    """

    total: int
    nonzero: int


def count_multiply_adds(model: onnx.ModelProto, folder: Path) -> MultiplyAdds | None:
    """Count the multiply-adds of ``MatMul``, ``Gemm`` and ``Conv`` in the main graph.

    Parameters
    ----------
    model : onnx.ModelProto
        A model whose inputs have static shapes; it is not changed.
    folder : Path
        The folder that external weights lie in.

    Returns
    -------
    MultiplyAdds or None
        None if the shape of such a layer is known only when the model runs.
    """
    weights = {t.name: t for t in model.graph.initializer if math.prod(t.dims) >= _WEIGHT_SIZE}
    density = {
        name: np.count_nonzero(array) / array.size
        for name, array in ((n, tensor_array(t, folder)) for n, t in weights.items())
        if array.dtype.kind == "f"
    }
    folded = _folded_without(model, weights)
    for node in folded.graph.node:
        if node.op_type in ("Transpose", "Identity") and node.input[0] in density:
            density[node.output[0]] = density[node.input[0]]
    shapes = _shapes(folded)
    total, nonzero = 0, 0.0
    for node in folded.graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        if any(name not in shapes for name in (node.output[0], *node.input[:2])):
            return None
        macs = math.prod(shapes[node.output[0]]) * _reduced(node, shapes)
        total += macs
        nonzero += macs * math.prod(density.get(name, 1.0) for name in node.input[:2])
    return MultiplyAdds(total, round(nonzero))


def _folded_without(
    model: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]
) -> onnx.ModelProto:
    """Return the model after constant folding, its weights made inputs; the copy is small."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    graph.input.extend(model.graph.input)
    graph.input.extend(
        onnx.helper.make_tensor_value_info(name, t.data_type, t.dims) for name, t in weights.items()
    )
    graph.initializer.extend(t for t in model.graph.initializer if t.name not in weights)
    with scratch_folder() as scratch:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(scratch / "folded.onnx")
        options.log_severity_level = 3
        try:
            onnxruntime.InferenceSession(
                light.SerializeToString(), options, providers=["CPUExecutionProvider"],
                disabled_optimizers=["MatMulAddFusion"],
            )  # fmt: skip
        # ONNX Runtime's errors share no base class below Exception.
        except Exception:
            return light  # it cannot optimize the model
        return onnx.load(options.optimized_model_filepath)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the values that have the same one in every run."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    try:
        types = value_types(model, Path())
    # ONNX Runtime's errors share no base class below Exception.
    except Exception:
        return shapes  # it cannot run the model
    known = {name: found.shape for name, found in types.items() if found.is_static}
    return shapes | {name: shape for name, shape in known.items() if shape is not None}


def _reduced(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the number of products summed in each output element."""
    left, right = (shapes[name] for name in node.input[:2])
    if node.op_type == "Conv":
        return math.prod(right[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return left[0] if transposed else left[-1]

"""Ten small models whose mutants are compiled; each holds operators of another kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tvm_sparse.testing.models import pruned

_node = helper.make_node

_Values = Mapping[str, tuple[int, Sequence[int] | None]]
"""Element type and shape of inputs and outputs; without a shape, inference finds it."""


def write_models(folder: Path) -> list[Path]:
    """Write all models; one of them has its weights in a file beside it."""
    paths = []
    for name, build in MODELS.items():
        path = folder / f"{name}.onnx"
        is_external = name == "attention"
        onnx.save(
            build(), str(path), save_as_external_data=is_external, location=f"{name}.data",
            size_threshold=256,
        )  # fmt: skip
        paths.append(path)
    return paths


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: _Values,
    outputs: _Values,
    weights: Mapping[str, Any],
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "seed",
        [helper.make_tensor_value_info(n, dtype, shape) for n, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info(n, dtype, shape) for n, (dtype, shape) in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def _ints(*values: Any) -> np.ndarray:
    return np.array(values, "int64")


def _perceptron() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "w0": pruned(rng, (24, 32), 0.1),
        "b0": _normal(32),
        "w1": pruned(rng, (32, 9), 0.2),
    }
    nodes = [
        _node("MatMul", ["x", "w0"], ["h"], "up"),
        _node("Add", ["h", "b0"], ["a"], "bias"),
        _node("Relu", ["a"], ["r"], "relu"),
        _node("Gemm", ["r", "w1"], ["y"], "down", alpha=0.5),
    ]
    return _model(nodes, {"x": (1, [5, 24])}, {"y": (1, [5, 9])}, weights)


def _classifier() -> onnx.ModelProto:
    weights: dict[str, Any] = {
        "w0": _normal(8, 3, 3, 3), "b0": _normal(8), "s": _normal(8), "m": _normal(8),
        "v": np.abs(_normal(8)) + 0.5, "w1": _normal(8, 1, 3, 3),
        "w2": pruned(np.random.default_rng(1), (12, 8, 1, 1), 0.2), "w3": _normal(12, 5),
    }  # fmt: skip
    nodes = [
        _node("Conv", ["x", "w0", "b0"], ["c0"], "stem", pads=[1, 1, 1, 1], strides=[2, 2]),
        _node("BatchNormalization", ["c0", "s", "b0", "m", "v"], ["n"], "norm", epsilon=1e-4),
        _node("Clip", ["n", "", "six"], ["r"], "clip"),
        _node("Conv", ["r", "w1"], ["c1"], "depthwise", group=8, auto_pad="SAME_UPPER"),
        _node("MaxPool", ["c1"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        _node("Conv", ["p", "w2"], ["c2"], "pointwise", kernel_shape=[1, 1]),
        _node("GlobalAveragePool", ["c2"], ["g"], "mean"),
        _node("Flatten", ["g"], ["f"], "flatten", axis=1),
        _node("MatMul", ["f", "w3"], ["y"], "classes"),
    ]
    weights["six"] = np.float32(6)
    return _model(nodes, {"x": (1, [1, 3, 11, 11])}, {"y": (1, [1, 5])}, weights)


def _attention() -> onnx.ModelProto:
    weights: dict[str, Any] = {name: _normal(16, 16) / 4 for name in ("wq", "wk", "wv", "wo")}
    weights |= {"heads": _ints(1, 6, 2, 8), "flat": _ints(1, 6, 16), "scale": np.float32(8**-0.5)}
    weights |= {"gamma": _normal(16), "beta": _normal(16)}
    nodes = []
    for name, permutation in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
        nodes += [
            _node("MatMul", ["x", f"w{name}"], [f"{name}0"], f"project_{name}"),
            _node("Reshape", [f"{name}0", "heads"], [f"{name}1"], f"heads_{name}"),
            _node("Transpose", [f"{name}1"], [name], f"turn_{name}", perm=permutation),
        ]
    nodes += [
        _node("MatMul", ["q", "k"], ["s0"], "scores"),
        _node("Mul", ["s0", "scale"], ["s1"], "scaled"),
        _node("Softmax", ["s1"], ["s"], "softmax", axis=-1),
        _node("MatMul", ["s", "v"], ["o0"], "mix"),
        _node("Transpose", ["o0"], ["o1"], "turn_back", perm=[0, 2, 1, 3]),
        _node("Reshape", ["o1", "flat"], ["o"], "join"),
        _node("MatMul", ["o", "wo"], ["a"], "out"),
        _node("Add", ["a", "x"], ["r"], "residual"),
        _node("LayerNormalization", ["r", "gamma", "beta"], ["y"], "norm", axis=-1),
    ]
    return _model(nodes, {"x": (1, [1, 6, 16])}, {"y": (1, [1, 6, 16])}, weights)


def _recurrent() -> onnx.ModelProto:
    weights: dict[str, Any] = {
        "w": _normal(1, 16, 3), "r": _normal(1, 16, 4), "b": _normal(1, 32),
        "gw": _normal(2, 12, 4), "gr": _normal(2, 12, 4), "axes": _ints(1),
    }  # fmt: skip
    nodes = [
        _node("LSTM", ["x", "w", "r", "b"], ["h", "", "c"], "lstm", hidden_size=4),
        _node("Squeeze", ["h", "axes"], ["s"], "squeeze"),
        _node("GRU", ["s", "gw", "gr"], ["y"], "gru", hidden_size=4, direction="bidirectional"),
    ]
    outputs: _Values = {"y": (1, [5, 2, 2, 4]), "c": (1, [1, 2, 4])}
    return _model(nodes, {"x": (1, [5, 2, 3])}, outputs, weights)


def _control() -> onnx.ModelProto:
    def body(nodes: Sequence[onnx.NodeProto], inputs: _Values, outputs: _Values) -> Any:
        return helper.make_graph(
            nodes,
            "inner",
            [helper.make_tensor_value_info(n, *of) for n, of in inputs.items()],
            [helper.make_tensor_value_info(n, *of) for n, of in outputs.items()],
        )

    loop = body(
        [
            _node("Identity", ["go"], ["go_on"], "keep"),
            _node("Mul", ["state", "half"], ["next"], "halve"),
            _node("Add", ["next", "x"], ["seen"], "see"),
        ],
        {"step": (7, []), "go": (9, []), "state": (1, [3, 4])},
        {"go_on": (9, []), "next": (1, [3, 4]), "seen": (1, [3, 4])},
    )
    nodes = [
        _node("ReduceSum", ["x"], ["sum"], "sum", keepdims=0),
        _node("Greater", ["sum", "zero"], ["is_more"], "more"),
        _node(
            "If", ["is_more"], ["chosen"], "if",
            then_branch=body([_node("Exp", ["x"], ["e"], "exp")], {}, {"e": (1, [3, 4])}),
            else_branch=body([_node("Neg", ["x"], ["n"], "neg")], {}, {"n": (1, [3, 4])}),
        ),
        _node("Loop", ["count", "true", "chosen"], ["y", "all"], "loop", body=loop),
    ]  # fmt: skip
    weights: dict[str, Any] = {
        "zero": np.float32(0), "half": np.float32(0.5), "count": np.int64(3), "true": np.bool_(True)
    }  # fmt: skip
    outputs: _Values = {"y": (1, [3, 4]), "all": (1, [3, 3, 4])}
    return _model(nodes, {"x": (1, [3, 4])}, outputs, weights)


def _indices() -> onnx.ModelProto:
    nodes = [
        _node("Gather", ["x", "i"], ["g"], "gather", axis=1),
        _node("GatherElements", ["x", "rows"], ["e"], "elements", axis=0),
        _node("GatherND", ["x", "points"], ["d"], "points"),
        _node("ScatterElements", ["x", "rows", "e"], ["s"], "scatter", axis=0),
        _node("ScatterND", ["s", "points", "d"], ["n"], "scatter_points"),
        _node("OneHot", ["i", "depth", "levels"], ["o"], "one_hot", axis=-1),
        _node("TopK", ["n", "k"], ["t", "at"], "top", axis=1),
        _node("ArgMax", ["x"], ["m"], "largest", axis=1, keepdims=0),
    ]
    weights: dict[str, Any] = {
        "rows": _ints([0, 3, 1, 2, 0]), "points": _ints([0, 1], [3, 4]), "depth": np.int64(5),
        "levels": np.array([0, 1], "float32"), "k": _ints(2),
    }  # fmt: skip
    outputs: _Values = {
        "g": (1, [4, 3]), "n": (1, [4, 5]), "o": (1, [3, 5]), "t": (1, [4, 2]), "at": (7, [4, 2]),
        "m": (7, [4]),
    }  # fmt: skip
    return _model(nodes, {"x": (1, [4, 5]), "i": (7, [3])}, outputs, weights)


def _integers() -> onnx.ModelProto:
    nodes = [
        _node("Div", ["a", "b"], ["q"], "divide"),
        _node("Mod", ["a", "b"], ["m"], "modulo"),
        _node("BitShift", ["u", "bits"], ["s"], "shift", direction="RIGHT"),
        _node("CumSum", ["q", "axis"], ["c"], "sums", exclusive=1),
        _node("Cast", ["c"], ["f"], "to_float", to=TensorProto.FLOAT),
        _node("Pow", ["f", "two"], ["p"], "square"),
        _node("Equal", ["m", "q"], ["same"], "same"),
        _node("Where", ["same", "p", "f"], ["y"], "where"),
        _node("ReduceMax", ["a"], ["largest"], "largest", axes=[0], keepdims=1),
    ]
    weights: dict[str, Any] = {
        "bits": np.array([1, 2, 3], "uint8"),
        "axis": np.int64(1),
        "two": np.float32(2),
    }
    outputs: _Values = {"y": (1, [2, 3]), "s": (2, [3]), "largest": (7, [1, 3])}
    inputs: _Values = {"a": (7, [2, 3]), "b": (7, [2, 3]), "u": (2, [3])}
    return _model(nodes, inputs, outputs, weights, opset=13)


def _shapes() -> onnx.ModelProto:
    nodes = [
        _node("Shape", ["x"], ["shape"], "shape"),
        _node("Gather", ["shape", "one"], ["rows"], "rows"),
        _node("Concat", ["rows", "minus"], ["flat"], "flat", axis=0),
        _node("Reshape", ["x", "flat"], ["r"], "reshape"),
        _node("Slice", ["r", "from", "to", "axes", "steps"], ["s"], "slice"),
        _node("Pad", ["s", "pads", "value"], ["p"], "pad", mode="constant"),
        _node("Tile", ["p", "repeats"], ["t"], "tile"),
        _node("Split", ["t", "parts"], ["left", "right"], "split", axis=1),
        _node("Unsqueeze", ["left", "one"], ["u"], "unsqueeze"),
        _node("Expand", ["u", "wide"], ["y"], "expand"),
        _node("ConstantOfShape", ["flat_shape"], ["zeros"], "zeros"),
        _node("Range", ["start", "limit", "delta"], ["range"], "range"),
        _node("Add", ["zeros", "range"], ["z"], "grid"),
    ]
    weights: dict[str, Any] = {
        "one": _ints(1), "minus": _ints(-1), "from": _ints(7), "to": _ints(-9), "axes": _ints(1),
        "steps": _ints(-2), "pads": _ints(0, 1, 1, 0), "value": np.float32(2),
        "repeats": _ints(1, 2), "parts": _ints(4, 6), "wide": _ints(4, 2, 4),
        "flat_shape": _ints(2, 5), "start": np.float32(1), "limit": np.float32(6),
        "delta": np.float32(1),
    }  # fmt: skip
    outputs: _Values = {"y": (1, [4, 2, 4]), "right": (1, [4, 6]), "z": (1, [2, 5])}
    return _model(nodes, {"x": (1, [2, 3, 4])}, outputs, weights)


def _quantized() -> onnx.ModelProto:
    rng = np.random.default_rng(2)
    weights: dict[str, Any] = {
        "scale": np.float32(0.05), "zero": np.uint8(128), "ws": np.full(6, 0.02, "float32"),
        "wz": np.zeros(6, "int8"), "w": rng.integers(-90, 90, (6, 4, 3, 3)).astype("int8"),
        "v": rng.integers(0, 255, (25, 7)).astype("uint8"), "flat": _ints(6, 25),
    }  # fmt: skip
    nodes = [
        _node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize"),
        _node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "dequantize"),
        _node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], "weights", axis=0),
        _node("Conv", ["d", "dw"], ["c"], "conv", pads=[1, 1, 1, 1]),
        _node("Reshape", ["c", "flat"], ["r"], "flat"),
        _node("DynamicQuantizeLinear", ["r"], ["rq", "rs", "rz"], "dynamic"),
        _node("MatMulInteger", ["rq", "v", "rz"], ["i"], "matmul"),
        _node("Cast", ["i"], ["f"], "to_float", to=TensorProto.FLOAT),
        _node("Mul", ["f", "rs"], ["y"], "scaled"),
    ]
    return _model(nodes, {"x": (1, [1, 4, 5, 5])}, {"y": (1, [6, 7])}, weights)


def _images() -> onnx.ModelProto:
    weights: dict[str, Any] = {
        "w": _normal(4, 2, 2, 2), "scales": np.array([1, 1, 2, 2], "float32"),
        "grid": np.clip(_normal(1, 4, 4, 2), -1, 1), "v": _normal(3, 2),
    }  # fmt: skip
    nodes = [
        _node("AveragePool", ["x"], ["a"], "mean", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        _node("ConvTranspose", ["a", "w"], ["c"], "up", strides=[2, 2]),
        _node("Resize", ["c", "", "scales"], ["r"], "resize", mode="linear"),
        _node("DepthToSpace", ["a"], ["d"], "depth", blocksize=2),
        _node("GridSample", ["r", "grid"], ["g"], "sample", align_corners=1),
        _node("InstanceNormalization", ["g", "one", "none"], ["n"], "norm"),
        _node("Einsum", ["n", "v"], ["y"], "einsum", equation="bchw,kc->bkhw"),
        _node("LRN", ["d"], ["z"], "lrn", size=1),
    ]
    weights |= {"one": np.ones(2, "float32"), "none": np.zeros(2, "float32")}
    outputs: _Values = {"y": (1, [1, 3, 4, 4]), "z": (1, [1, 1, 10, 10])}
    return _model(nodes, {"x": (1, [1, 4, 5, 5])}, outputs, weights)


MODELS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "perceptron": _perceptron,
    "classifier": _classifier,
    "attention": _attention,
    "recurrent": _recurrent,
    "control": _control,
    "indices": _indices,
    "integers": _integers,
    "shapes": _shapes,
    "quantized": _quantized,
    "images": _images,
}
"""The models by name."""

"""DequantizeLinear of constants in blocks, in front of a product."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvm_sparse
from tvm_sparse.frontends.canonical.block_products import multiply_blocks

K, N = 80, 40
TYPES = [TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8, TensorProto.UINT8]


def model(path, data_type, rows=3, block=32, *, has_zeros=True, axis=0, shared=False):
    rng = np.random.default_rng(3)
    bits = 4 if data_type in TYPES[:2] else 8
    low = -(1 << (bits - 1)) if data_type in (TensorProto.INT4, TensorProto.INT8) else 0
    shape = [K, N]
    shape[axis] = -(-shape[axis] // block)
    values, points = (rng.integers(low, low + (1 << bits), size) for size in ((K, N), shape))
    scales = rng.uniform(0.01, 0.02, shape).astype("float32")
    tensors = [
        helper.make_tensor("q", data_type, values.shape, values.ravel()),
        numpy_helper.from_array(scales, "s"),
        helper.make_tensor("z", data_type, shape, points.ravel()),
    ]
    names = ["q", "s", "z"] if has_zeros else ["q", "s"]
    nodes = [
        helper.make_node("DequantizeLinear", names, ["w"], axis=axis, block_size=block),
        helper.make_node("MatMul", ["x", "w"], ["p"], name="proj"),
        helper.make_node("Relu", ["p"], ["y"]),
    ]
    if shared:
        nodes.append(helper.make_node("ReduceSum", ["w"], ["t"], keepdims=0))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, N])]
    outputs += [helper.make_tensor_value_info("t", TensorProto.FLOAT, [])] * shared
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, K])
    graph = helper.make_graph(nodes, "g", [x], outputs, tensors[: len(names)])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(made, path)
    return made


@pytest.mark.parametrize("data_type", TYPES)
@pytest.mark.parametrize("has_zeros", [False, True])
def test_the_codes_stay(tmp_path, data_type, has_zeros):
    path = tmp_path / "m.onnx"
    model(path, data_type, has_zeros=has_zeros)
    engine = tvm_sparse.compile(path)
    (layer,) = engine.report.layers
    assert (layer.name, layer.kernel, layer.precision) == ("proj", "block_row_linear", "int16")
    x = np.random.default_rng(0).standard_normal((3, K)).astype("float32")
    exact = onnxruntime.SessionOptions()  # by default, it would round x to 8 bits
    exact.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (want,) = onnxruntime.InferenceSession(path, exact).run(None, {"x": x})
    np.testing.assert_allclose(engine.run({"x": x})["y"], want, atol=2e-4 * np.abs(want).max())


def test_many_rows_are_multiplied_by_floats(tmp_path):
    path = tmp_path / "m.onnx"
    model(path, TensorProto.INT4, rows=20)
    (layer,) = tvm_sparse.compile(path).report.layers
    assert layer.precision == "float32" and "few bits became floats" in layer.reason


@pytest.mark.parametrize(
    "options", [{"shared": True}, {"axis": 1, "block": 8}, {"block": 24}, {"block": 8}]
)
def test_what_stays_as_it_is(tmp_path, options):
    made = model(tmp_path / "m.onnx", TensorProto.INT4, **options)
    before = made.SerializeToString()
    assert multiply_blocks(made, tmp_path).SerializeToString() == before

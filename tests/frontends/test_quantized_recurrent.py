"""DynamicQuantizeLSTM becomes an LSTM of its dequantized weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvm_sparse
from tvm_sparse.frontends.canonical.quantized_recurrent import dequantize_recurrent

STEPS, BATCH, WIDTH, HIDDEN = 6, 2, 12, 20


def quantized(rng, directions, columns, per_channel, dtype):
    """Return a weight of about 90 % zeros in 8 bits, its scale and its zero point."""
    weight = rng.standard_normal((directions, columns, 4 * HIDDEN)) * 0.5
    weight *= rng.random(weight.shape) < 0.1
    axes = (1,) if per_channel else (1, 2)
    scale = np.maximum(np.abs(weight).max(axes, keepdims=True), 0.1) / 127
    zero = 128 if dtype == "uint8" else 0
    values = np.clip(np.round(weight / scale) + zero, 0 if zero else -128, 255 if zero else 127)
    shape = (directions, 4 * HIDDEN) if per_channel else (directions,)
    zeros = np.full(shape, zero, dtype)
    return values.astype(dtype), scale.reshape(shape).astype("float32"), zeros


def model_of(directions, per_channel, dtype, variable=()):
    rng = np.random.default_rng(directions)
    tensors = {}
    for name, columns in (("W", WIDTH), ("R", HIDDEN)):
        of_weight = quantized(rng, directions, columns, per_channel, dtype)
        tensors |= dict(zip((name, f"{name}_scale", f"{name}_zero"), of_weight, strict=True))
    tensors["B"] = (rng.standard_normal((directions, 8 * HIDDEN)) * 0.2).astype("float32")
    tensors["P"] = (rng.standard_normal((directions, 3 * HIDDEN)) * 0.2).astype("float32")
    inputs = ["x", "W", "R", "B", "", "", "", "P", "W_scale", "W_zero", "R_scale", "R_zero"]
    attributes = {"direction": "bidirectional" if directions == 2 else "forward"}
    node = helper.make_node(
        *("DynamicQuantizeLSTM", inputs, ["y", "y_h", "y_c"], "cell"),
        **{"domain": "com.microsoft", "hidden_size": HIDDEN, **attributes},
    )
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (STEPS, BATCH, WIDTH))]
    given += [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(tensors[name].dtype), tensors[name].shape
        )
        for name in variable
    ]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in node.output]
    constants = [numpy_helper.from_array(v, k) for k, v in tensors.items() if k not in variable]
    graph = helper.make_graph([node], "quantized", given, results, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), tensors


def by_onnx_runtime(model, x):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": x}), strict=True))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
def test_the_lstm_is_that_of_the_dequantized_weights(directions, per_channel, dtype, tmp_path):
    model, _ = model_of(directions, per_channel, dtype)
    x = np.random.default_rng(0).standard_normal((STEPS, BATCH, WIDTH)).astype("float32")
    changed = dequantize_recurrent(model, tmp_path)
    assert [node.op_type for node in model.graph.node] == ["DynamicQuantizeLSTM"]
    assert [node.op_type for node in changed.graph.node] == ["LSTM"]
    exact, rounded = by_onnx_runtime(changed, x), by_onnx_runtime(model, x)
    for name, value in exact.items():
        # ONNX Runtime rounds what it multiplies to 8 bits, and the errors add up over the steps.
        np.testing.assert_allclose(value, rounded[name], rtol=0, atol=0.03)


def test_it_is_compiled_and_verified(tmp_path):
    model, _ = model_of(2, True, "uint8")
    onnx.save(model, tmp_path / "m.onnx")
    engine = tvm_sparse.compile(tmp_path / "m.onnx")
    assert not engine.info.fallbacks
    x = np.random.default_rng(0).standard_normal((STEPS, BATCH, WIDTH)).astype("float32")
    want = by_onnx_runtime(dequantize_recurrent(model, tmp_path), x)
    for name, value in engine.run({"x": x}).items():
        np.testing.assert_allclose(value, want[name], rtol=1e-5, atol=1e-5)


def test_weights_that_are_inputs_are_left_to_onnx_runtime(tmp_path):
    model, _ = model_of(1, False, "int8", variable=("R_scale",))
    assert dequantize_recurrent(model, tmp_path) is not model
    changed = dequantize_recurrent(model, tmp_path)
    assert [node.op_type for node in changed.graph.node] == ["DynamicQuantizeLSTM"]

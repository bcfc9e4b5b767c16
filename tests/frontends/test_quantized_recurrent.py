"""ONNX Runtime runs DynamicQuantizeLSTM, which rounds inputs and states to 8 bits; no LSTM does."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvm_sparse
from tvm_sparse.errors import ModelError
from tvm_sparse.onnx_runtime import exact_options

STEPS, WIDTH, HIDDEN = 20, 12, 256


def quantized(rng, directions, columns, per_channel, dtype):
    """Return a weight of 8 bits, its scales and its zero points."""
    low, high, zero = (0, 256, 117) if dtype == "uint8" else (-127, 128, 0)
    weight = rng.integers(low, high, (directions, columns, 4 * HIDDEN)).astype(dtype)
    shape = (directions, 4 * HIDDEN) if per_channel else (directions,)
    return weight, rng.uniform(0.001, 0.01, shape).astype("float32"), np.full(shape, zero, dtype)


def write_model(path, directions, batch, per_channel, dtype):
    """Write a DynamicQuantizeLSTM that amplifies what it rounds."""
    rng = np.random.default_rng(directions)
    tensors = {}
    for name, columns in (("W", WIDTH), ("R", HIDDEN)):
        of_weight = quantized(rng, directions, columns, per_channel, dtype)
        tensors |= dict(zip((name, f"{name}_scale", f"{name}_zero"), of_weight, strict=True))
    tensors["B"] = (rng.standard_normal((directions, 8 * HIDDEN)) * 0.2).astype("float32")
    inputs = ["x", "W", "R", "B", "", "", "", "", "W_scale", "W_zero", "R_scale", "R_zero"]
    node = helper.make_node(
        *("DynamicQuantizeLSTM", inputs, ["y", "y_h", "y_c"], "cell"),
        domain="com.microsoft",
        hidden_size=HIDDEN,
        direction="bidirectional" if directions == 2 else "forward",
    )
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (STEPS, batch, WIDTH))]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in node.output]
    constants = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph([node], "quantized", given, results, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return rng.standard_normal((STEPS, batch, WIDTH)).astype("float32")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
def test_the_answer_is_that_of_the_file(directions, per_channel, dtype, tmp_path):
    path = tmp_path / "m.onnx"
    x = write_model(path, directions, 1, per_channel, dtype)
    engine = tvm_sparse.compile(path, threads=1)
    assert [one.operator for one in engine.info.fallbacks] == ["com.microsoft.DynamicQuantizeLSTM"]
    session = onnxruntime.InferenceSession(path, exact_options(), ["CPUExecutionProvider"])
    want = session.run(None, {"x": x})
    for value, expected in zip(engine.run({"x": x}).values(), want, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


def test_threads_may_share_a_batch(tmp_path):
    """On several threads, ONNX Runtime rounds each row of a batch by itself: another answer."""
    path = tmp_path / "m.onnx"
    write_model(path, 1, 2, False, "int8")
    tvm_sparse.compile(path, threads=1, verify=True)


def test_without_onnx_runtime_it_is_an_error(tmp_path):
    path = tmp_path / "m.onnx"
    write_model(path, 1, 1, False, "int8")
    with pytest.raises(ModelError, match="DynamicQuantizeLSTM"):
        tvm_sparse.compile(path, fallback="off")

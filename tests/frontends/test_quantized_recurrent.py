"""DynamicQuantizeLSTM, which rounds inputs and states to 8 bits, against NumPy and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvm_sparse
from tvm_sparse.cpu.integers import dot_products
from tvm_sparse.cpu.profile import native
from tvm_sparse.onnx_runtime import exact_options

STEPS, WIDTH, HIDDEN = 20, 12, 256


def quantized(rng, directions, columns, per_channel, dtype, hidden=HIDDEN, density=1.0):
    """Return a weight of 8 bits, its scales and its zero points."""
    low, high, zero = (0, 256, 117) if dtype == "uint8" else (-127, 128, 0)
    weight = rng.integers(low, high, (directions, columns, 4 * hidden))
    weight = np.where(rng.random(weight.shape) < density, weight, zero).astype(dtype)
    shape = (directions, 4 * hidden) if per_channel else (directions,)
    return weight, rng.uniform(0.001, 0.01, shape).astype("float32"), np.full(shape, zero, dtype)


def model_of(arrays, attributes, inputs):
    """Return a model of one node; of its operands, `inputs` are no constants."""
    names = ["x", "W", "R", "B", "", "h", "c", "P", "W_scale", "W_zero", "R_scale", "R_zero"]
    node = helper.make_node(
        *("DynamicQuantizeLSTM", [name if name in arrays else "" for name in names]),
        *(["y", "y_h", "y_c"], "cell"),
        domain="com.microsoft",
        **attributes,
    )
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, arrays[name].shape)
        for name in inputs
    ]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in node.output]
    constants = [numpy_helper.from_array(v, n) for n, v in arrays.items() if n not in inputs]
    graph = helper.make_graph([node], "quantized", given, results, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def rounded(x):
    """Return the floats that the integers of a tensor's range stand for."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32((np.float32(high) - np.float32(low)) / np.float32(255)) or np.float32(1)
    zero = np.rint(np.clip((0 - np.float32(low)) / scale, 0, 255))
    steps = np.clip(np.rint(x / scale) + zero, 0, 255) - zero
    return steps.astype("float64") * scale


def one_step(arrays):
    """Return the states behind a single step, in double precision."""

    def floats(name):
        zero = arrays[f"{name}_zero"].astype("float64").reshape(len(arrays["W"]), 1, -1)
        scale = arrays[f"{name}_scale"].reshape(zero.shape)
        return (arrays[name].astype("float64") - zero) * scale

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    w, r, states = floats("W"), floats("R"), []
    for d in range(len(w)):
        bias, hidden = arrays["B"][d].astype("float64"), r.shape[1]
        gates = rounded(arrays["x"][0]) @ w[d] + rounded(arrays["h"][d]) @ r[d]
        i, o, f, c = np.split(gates + bias[: 4 * hidden] + bias[4 * hidden :], 4, axis=1)
        cell = sigmoid(f) * arrays["c"][d] + sigmoid(i) * np.tanh(c)
        states.append((sigmoid(o) * np.tanh(cell), cell))
    return [np.stack(which) for which in zip(*states, strict=True)]


@pytest.mark.parametrize("target", ["native", "haswell"])
@pytest.mark.parametrize(
    ("hidden", "batch", "directions", "dtype", "per_channel", "density"),
    [
        (40, 3, 1, "int8", True, 1.0),
        (17, 1, 2, "uint8", True, 1.0),
        (3, 2, 1, "int8", False, 1.0),  # fewer units than a vector has lanes
        (64, 2, 1, "uint8", False, 0.05),
        (33, 1, 1, "int8", False, 0.0),
        (32, 5, 2, "int8", True, 0.5),
    ],
)
def test_a_step_is_exact(hidden, batch, directions, dtype, per_channel, density, target):
    rng = np.random.default_rng(hidden)

    def normal(*shape):
        return rng.standard_normal(shape).astype("float32")

    arrays = {"x": normal(1, batch, WIDTH), "B": normal(directions, 8 * hidden)}
    for name, columns, share in (("W", WIDTH, 1.0), ("R", hidden, density)):
        numbers = quantized(rng, directions, columns, per_channel, dtype, hidden, share)
        arrays |= dict(zip((name, f"{name}_scale", f"{name}_zero"), numbers, strict=True))
    state = directions, batch, hidden
    arrays |= {"h": normal(*state), "c": normal(*state)}
    direction = "bidirectional" if directions == 2 else "reverse"
    attributes = {"hidden_size": hidden, "direction": direction}
    model = model_of(arrays, attributes, ["x", "h", "c"])
    engine = tvm_sparse.compile(model, target=target, threads=1, fallback="off")
    _, y_h, y_c = engine.run({name: arrays[name] for name in ("x", "h", "c")}).values()
    for got, want in zip((y_h, y_c), one_step(arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def write_model(path, directions, batch, per_channel, dtype):
    """Write a DynamicQuantizeLSTM that amplifies what it rounds."""
    rng = np.random.default_rng(directions)
    arrays = {"x": np.zeros((STEPS, batch, WIDTH), "float32")}
    for name, columns in (("W", WIDTH), ("R", HIDDEN)):
        numbers = quantized(rng, directions, columns, per_channel, dtype)
        arrays |= dict(zip((name, f"{name}_scale", f"{name}_zero"), numbers, strict=True))
    arrays["B"] = (rng.standard_normal((directions, 8 * HIDDEN)) * 0.2).astype("float32")
    direction = "bidirectional" if directions == 2 else "forward"
    onnx.save(model_of(arrays, {"hidden_size": HIDDEN, "direction": direction}, ["x"]), path)
    return rng.standard_normal((STEPS, batch, WIDTH)).astype("float32")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(
    ("directions", "per_channel", "batch", "threads"),
    [(1, False, 2, 2), (1, True, 1, 1), (2, False, 3, 1), (2, True, 1, 2)],
)
def test_the_answer_is_that_of_onnx_runtime(
    directions, per_channel, batch, threads, dtype, tmp_path
):
    """It may differ as much as its own do: the last bit decides about some of so many values."""
    path = tmp_path / "m.onnx"
    write_model(path, directions, batch, per_channel, dtype)
    engine = tvm_sparse.compile(path, threads=threads, verify=True, fallback="off")
    (kernel,) = [one.kernel for one in engine.report.layers if "recurrent" in one.kernel]
    assert kernel == ("int8_recurrent" if dot_products(native()) else "recurrent")


def test_lengths_of_sequences_are_left_to_onnx_runtime(tmp_path):
    path = tmp_path / "m.onnx"
    x = write_model(path, 1, 2, False, "int8")
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([20, 7], "int32"), "lengths"))
    model.graph.node[0].input[4] = "lengths"
    onnx.save(model, path)
    engine = tvm_sparse.compile(path, threads=1)
    assert [one.operator for one in engine.info.fallbacks] == ["com.microsoft.DynamicQuantizeLSTM"]
    options = exact_options()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    want = session.run(None, {"x": x})
    for value, expected in zip(engine.run({"x": x}).values(), want, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)

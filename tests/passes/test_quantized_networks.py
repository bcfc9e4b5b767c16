"""Quantized networks against ONNX Runtime, as its quantizer writes them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.helper import make_node
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

import tvm_sparse
from tvm_sparse.cpu.integers import dot_products, has_byte_matrix_unit
from tvm_sparse.cpu.profile import native
from tvm_sparse.testing.models import onnxruntime_outputs, write_onnx

TYPES = {"u8s8": (QuantType.QUInt8, QuantType.QInt8), "s8s8": (QuantType.QInt8, QuantType.QInt8)}
TYPES["u8u8"] = QuantType.QUInt8, QuantType.QUInt8


class Samples(CalibrationDataReader):
    def __init__(self, shape):
        random = np.random.default_rng(0)
        self.left = [random.standard_normal(shape).astype("float32") for _ in range(2)]

    def get_next(self):
        return {"x": self.left.pop()} if self.left else None


def native_has_integers():
    """Whether this machine multiplies integers of 8 bits faster than floats."""
    dots = dot_products(native())
    return has_byte_matrix_unit(native()) or (dots is not None and dots.per_word == 4)


def weight(shape, density):
    random = np.random.default_rng(sum(shape))
    values = random.standard_normal(shape) * (random.random(shape) < density)
    fan_in = shape[0] if len(shape) == 2 else np.prod(shape[1:])
    return (values / np.sqrt(fan_in * density)).astype("float32")


def tokens(density):
    """Return nodes, input shape and weights of two linear layers with a residual."""
    nodes = [
        make_node("MatMul", ["x", "w1"], ["a"]),
        make_node("Add", ["a", "b1"], ["b"]),
        make_node("Relu", ["b"], ["c"]),
        make_node("MatMul", ["c", "w2"], ["d"]),
        make_node("Add", ["d", "x"], ["y"]),
    ]
    weights = {"w1": weight((70, 130), density), "w2": weight((130, 70), density)}
    return nodes, (1, 37, 70), weights | {"b1": np.linspace(-1, 1, 130, dtype="float32")}


def images(density):
    """Return those of convolutions with strides, padding, a pooling and a residual."""
    nodes = [
        make_node("Conv", ["x", "w0", "b0"], ["a"], pads=[1] * 4, strides=[2, 2]),
        make_node("Relu", ["a"], ["r"]),
        make_node("MaxPool", ["r"], ["p"], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
        make_node("Conv", ["p", "w1"], ["b"], pads=[1] * 4),
        make_node("Relu", ["b"], ["c"]),
        make_node("Conv", ["c", "w2"], ["d"]),
        make_node("Add", ["d", "p"], ["y"]),
    ]
    weights = {
        "w0": weight((32, 3, 3, 3), 1.0),
        "w1": weight((32, 32, 3, 3), density),
        "w2": weight((32, 32, 1, 1), density),
        "b0": np.linspace(-1, 1, 32, dtype="float32"),
    }
    return nodes, (1, 3, 38, 46), weights


def quantized(folder, network, types, density):
    """Return the path of a quantized network, its input, and ONNX Runtime's answer."""
    nodes, shape, weights = network(density)
    plain, path = folder / "plain.onnx", folder / "model.onnx"
    write_onnx(plain, nodes, {"x": list(shape)}, ["y"], weights)
    activation, integers = TYPES[types]
    quantize_static(
        plain,
        path,
        Samples(shape),
        quant_format=QuantFormat.QDQ,
        per_channel=types != "u8u8",
        activation_type=activation,
        weight_type=integers,
    )
    onnx.checker.check_model(onnx.load(path))
    x = np.random.default_rng(5).standard_normal(shape).astype("float32")
    return path, x, onnxruntime_outputs(path, {"x": x})["y"]


@pytest.mark.parametrize("network", [tokens, images])
@pytest.mark.parametrize("types", sorted(TYPES))
@pytest.mark.parametrize("density", [1.0, 0.1])
def test_answers_are_those_of_onnx_runtime(tmp_path, network, types, density):
    path, x, want = quantized(tmp_path, network, types, density)
    model = tvm_sparse.compile(path)
    got = model.run([x])["y"]
    # A sum that lies between two integers may go to either of them.
    assert np.mean(np.abs(got - want) > 1e-4 * np.abs(want).max()) < 0.01
    assert np.abs(got - want).max() <= np.abs(want).max() / 100
    precisions = {layer.precision for layer in model.report.layers}
    assert precisions <= {"int8", "float32"}
    if native_has_integers() and types != "u8u8":  # whose weights need not fit in int8
        assert "int8" in precisions


@pytest.mark.parametrize("operator", ["Conv", "Gemm"])
def test_the_bias_of_a_pruned_channel_is_not_rounded(tmp_path, operator):
    """ONNX Runtime's optimizations round it to steps of the scales, which are 1 here."""
    random = np.random.default_rng(0)
    shape, transposed = ((8, 4, 1, 1), {}) if operator == "Conv" else ((8, 4), {"transB": 1})
    values = random.integers(-127, 128, shape).astype("int8") * (np.arange(8) % 2).reshape(
        -1, *[1] * (len(shape) - 1)
    ).astype("int8")
    weights = {
        "w": values,
        "ws": np.where(np.arange(8) % 2, 0.01, 1.0).astype("float32"),
        "wz": np.zeros(8, "int8"),
        "s": np.array(0.02, "float32"),
        "z": np.array(120, "uint8"),
        "b": random.standard_normal(8).astype("float32"),
    }
    nodes = [
        make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=0),
        make_node(operator, ["d", "wf", "b"], ["c"], **transposed),
        make_node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
        make_node("DequantizeLinear", ["cq", "s", "z"], ["y"]),
    ]
    x_shape = (1, 4, 5, 6) if operator == "Conv" else (9, 4)
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": list(x_shape)}, ["y"], weights)
    x = random.standard_normal(x_shape).astype("float32")
    got, want = tvm_sparse.compile(path).run([x])["y"], onnxruntime_outputs(path, {"x": x})["y"]
    np.testing.assert_allclose(got[:, ::2], want[:, ::2], atol=1e-5)
    assert np.mean(np.abs(got - want) > 1e-4) < 0.01


def test_words_of_zeros_are_skipped(tmp_path):
    """A weight whose blocks of four inputs are pruned has sparse kernels of integers."""
    nodes, weights = [make_node("MatMul", ["x", "w1"], ["a"])], {}
    nodes += [make_node("Relu", ["a"], ["b"]), make_node("MatMul", ["b", "w2"], ["y"])]
    random = np.random.default_rng(3)
    for name in ("w1", "w2"):
        kept = np.repeat(random.random((64, 256)) < 0.15, 4, axis=0)
        weights[name] = (random.standard_normal((256, 256)) * kept / 6).astype("float32")
    plain, path = tmp_path / "plain.onnx", tmp_path / "model.onnx"
    write_onnx(plain, nodes, {"x": [1, 64, 256]}, ["y"], weights)
    quantize_static(
        plain,
        path,
        Samples((1, 64, 256)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        extra_options={"WeightSymmetric": True},
    )
    model = tvm_sparse.compile(path)
    x = np.random.default_rng(5).standard_normal((1, 64, 256)).astype("float32")
    want, got = onnxruntime_outputs(path, {"x": x})["y"], model.run([x])["y"]
    assert np.mean(np.abs(got - want) > 1e-4 * np.abs(want).max()) < 0.01
    if native_has_integers() and not has_byte_matrix_unit(native()):
        assert {layer.kernel for layer in model.report.layers} == {"sparse_int8_linear"}


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_scales_that_are_computed_when_the_model_runs(tmp_path, precision):
    nodes, shape, weights = tokens(1.0)
    plain, path = tmp_path / "plain.onnx", tmp_path / "model.onnx"
    write_onnx(plain, nodes, {"x": list(shape)}, ["y"], weights)
    quantize_dynamic(plain, path, weight_type=QuantType.QInt8, per_channel=True)
    model = tvm_sparse.compile(path, precision=precision)
    x = np.random.default_rng(5).standard_normal(shape).astype("float32")
    want, got = onnxruntime_outputs(path, {"x": x})["y"], model.run([x])["y"]
    bound = 1e-6 if precision == "float32" else 1 / 50
    assert np.abs(got - want).max() <= bound * np.abs(want).max()
    if native_has_integers():
        assert {layer.precision for layer in model.report.layers} == {"int8"}

"""Quantized operators give what ONNX Runtime gives: integers to the bit, floats within a step."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.frontends.load import import_module
from tvm_sparse.passes.canonicalize.recompose_quantized_products import (
    RecomposeQuantizedProducts,
)
from tvm_sparse.testing.models import operators_of
from tvm_sparse.testing.one_operator import check, outputs, write

FLOAT = TensorProto.FLOAT


def rng():
    return np.random.default_rng(0)


def image():
    return rng().standard_normal((2, 6, 9, 7)).astype("float32")


def tokens():
    return rng().standard_normal((3, 5, 40)).astype("float32")


def integers(shape, dtype, zero):
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if zero else (-127, 128)
    return rng().integers(low, high, shape).astype(dtype)


X = {"xs": np.float32(0.03), "xz": np.uint8(117)}
Y = {"ys": np.float32(0.4), "yz": np.uint8(120)}
ROUND_X = make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"])
WEIGHTS = [("int8", 0, False), ("uint8", 128, False), ("int8", -3, True), ("uint8", 120, True)]


def weight(shape, axis, dtype, zero, per_channel):
    """Return a weight, its scale and its zero point."""
    size = shape[axis] if per_channel else ()
    scale = rng().uniform(0.005, 0.02, size).astype("float32")
    points = np.full(size, zero, dtype)
    return {"w": integers(shape, dtype, zero), "ws": scale, "wz": points}


@pytest.mark.parametrize(("dtype", "zero", "per_channel"), WEIGHTS)
@pytest.mark.parametrize("op_type", ["MatMul", "Conv"])
def test_qlinear_operators(tmp_path, op_type, dtype, zero, per_channel):
    axis, shape = (1, (40, 21)) if op_type == "MatMul" else (0, (8, 3, 3, 2))
    tensors = {**X, **Y, **weight(shape, axis, dtype, zero, per_channel)}
    operands = ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    node = make_node("QLinearMatMul", operands, ["y"])
    if op_type == "Conv":
        tensors["b"] = rng().integers(-9000, 9000, 8).astype("int32")
        options = {"pads": [1, 0, 2, 1], "strides": [2, 1], "group": 2}
        node = make_node("QLinearConv", [*operands, "b"], ["y"], **options)
    x = tokens() if op_type == "MatMul" else image()
    check(tmp_path / "m.onnx", [ROUND_X, node], {"x": x}, TensorProto.UINT8, tensors, step=1)


@pytest.mark.parametrize(("dtype", "zero", "per_channel"), WEIGHTS)
@pytest.mark.parametrize("op_type", ["MatMulInteger", "ConvInteger"])
def test_integer_products_are_exact(tmp_path, op_type, dtype, zero, per_channel):
    is_conv = op_type == "ConvInteger"
    per_channel = per_channel and not is_conv  # ONNX Runtime has no such convolutions
    axis, shape = (0, (8, 6, 3, 3)) if is_conv else (1, (40, 21))
    tensors = {**X, **weight(shape, axis, dtype, zero, per_channel)}
    options = {"pads": [1, 0, 2, 1], "dilations": [1, 2]} if is_conv else {}
    node = make_node(op_type, ["q", "w", "xz", "wz"], ["y"], **options)
    x = image() if is_conv else tokens()
    check(tmp_path / "m.onnx", [ROUND_X, node], {"x": x}, TensorProto.INT32, tensors)


def test_rows_have_zero_points_of_their_own(tmp_path):
    """ONNX Runtime refuses what the standard allows."""
    tensors = {"w": integers((40, 21), "int8", 0), "z": np.arange(5, dtype="uint8")}
    node = make_node("MatMulInteger", ["x", "w", "z"], ["y"])
    x = rng().integers(0, 256, (5, 40)).astype("uint8")
    path = write(tmp_path / "m.onnx", [node], {"x": x}, TensorProto.INT32, tensors)
    engine = tvm_sparse.compile(path, fallback="off")
    exact = (x.astype("int32") - np.arange(5)[:, None]) @ tensors["w"].astype("int32")
    np.testing.assert_array_equal(engine.run({"x": x})["y"], exact)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_dynamic_quantization(tmp_path, scale):
    nodes = [
        make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    x = scale * tokens()
    got, want = outputs(write(tmp_path / "m.onnx", nodes, {"x": x}, FLOAT, {}), {"x": x})
    np.testing.assert_allclose(got, want, rtol=1e-6)


FORMS = ["DynamicQuantizeLinear", "QuantizeLinear"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("op_type", ["MatMulInteger", "ConvInteger"])
def test_scaled_integer_products_are_quantized_layers(tmp_path, form, op_type):
    """Dynamic quantization of ONNX Runtime, and what DeepSparse's exporter wrote."""
    is_conv, is_dynamic = op_type == "ConvInteger", form == "DynamicQuantizeLinear"
    shape = (8, 6, 3, 3) if is_conv else (40, 8)
    tensors = {**X, "w": integers(shape, "uint8", 128), "wz": np.uint8(128)}
    quantize = ROUND_X if not is_dynamic else make_node(form, ["x"], ["q", "s", "z"])
    nodes = [quantize, make_node(op_type, ["q", "w", "z" if is_dynamic else "xz", "wz"], ["i"])]
    if is_dynamic:
        nodes.append(make_node("Cast", ["i"], ["f"], to=FLOAT))
        nodes.append(make_node("Mul", ["s", "ws"], ["m"]))
        tensors["ws"] = np.float32(0.01)
    else:
        wide = (1, 8, 1, 1) if is_conv else (8,)
        tensors["b"] = rng().integers(-9000, 9000, wide).astype("int32")
        tensors["m"] = np.float32(0.0004)
        nodes.append(make_node("Add", ["i", "b"], ["j"]))
        nodes.append(make_node("Cast", ["j"], ["f"], to=FLOAT))
    nodes.append(make_node("Mul", ["f", "m"], ["y"]))
    x = image() if is_conv else tokens()
    path = tmp_path / "m.onnx"
    check(path, nodes, {"x": x}, FLOAT, tensors)
    operators = operators_of(RecomposeQuantizedProducts()(import_module(path).mod))
    assert operators.count("dequantize") == 2
    assert "astype" not in operators[operators.index("dequantize") :]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("axis", [None, 1, -1])
def test_rounding_is_to_even_and_saturates(tmp_path, dtype, axis):
    size = () if axis is None else 4
    tensors = {
        "s": np.full(size, 0.5, "float32"),
        "z": np.full(size, np.iinfo(dtype).max // 2, dtype),
    }
    options = {} if axis is None else {"axis": axis}
    nodes = [
        make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **options),
        make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **options),
    ]
    x = np.linspace(-8, 8, 48, dtype="float32").reshape(3, 4, 4)
    x[0, 0] = [1e6, -1e6, 3e38, -3e38]
    got, want = outputs(
        write(tmp_path / "m.onnx", nodes, {"x": x}, FLOAT, tensors, opset=21), {"x": x}
    )
    np.testing.assert_array_equal(got, want)


def test_both_of_two_roundings_in_turn_are_done(tmp_path):
    """ONNX Runtime's optimizers leave the first one out."""
    steps = {"as": np.float32(0.026), "az": np.int8(0), "bs": np.float32(0.023), "bz": np.int8(1)}
    nodes = [
        make_node("QuantizeLinear", ["x", "as", "az"], ["p"]),
        make_node("DequantizeLinear", ["p", "as", "az"], ["f"]),
        make_node("QuantizeLinear", ["f", "bs", "bz"], ["q"]),
        make_node("DequantizeLinear", ["q", "bs", "bz"], ["y"]),
    ]
    check(tmp_path / "m.onnx", nodes, {"x": tokens()}, FLOAT, steps)

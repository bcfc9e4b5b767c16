"""Weights of the reference: uint8 in the place of int8, and the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.testing.one_operator import write
from tvm_sparse.verification.unsigned_weights import with_unsigned_weights

X = np.full((2, 40), 3, "float32")
STEPS = {"xs": np.float32(0.01), "xz": np.uint8(0), "ws": np.float32(0.01)}
ROUND = make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"])


def model_of(path, zeros, dtype="int8"):
    """Write a product whose pairs of products exceed 16 bits; return the path and its result."""
    weight = np.full((40, 5), 127, dtype)
    names = ["q", "w", "xz", "wz"] if zeros else ["q", "w", "xz"]
    node = make_node("MatMulInteger", names, ["y"])
    tensors = {**STEPS, "w": weight, **({"wz": np.array(2, dtype)} if zeros else {})}
    write(path, [ROUND, node], {"x": X}, TensorProto.INT32, tensors)
    return path, np.full((2, 5), 40 * 255 * (127 - 2 * zeros))


@pytest.mark.parametrize("zeros", [0, 1])
def test_numbers(tmp_path, zeros):
    path, expected = model_of(tmp_path / "m.onnx", zeros)
    model = onnx.load(path)
    before = model.SerializeToString()
    changed = with_unsigned_weights(model, tmp_path)
    assert model.SerializeToString() == before
    node = changed.graph.node[1]
    held = {t.name: numpy_helper.to_array(t) for t in changed.graph.initializer}
    weight, zero = held[node.input[1]], held[node.input[3]]
    assert weight.dtype == zero.dtype == np.uint8
    assert (weight.astype(int) - zero == 127 - 2 * zeros).all()
    engine = tvm_sparse.compile(path, verify=True, fallback="off")  # raises if they differ
    np.testing.assert_array_equal(engine.run([X])["y"], expected)


def test_other_weights_stay(tmp_path):
    path, _ = model_of(tmp_path / "m.onnx", 1, "uint8")
    model = onnx.load(path)
    assert with_unsigned_weights(model, tmp_path) is model


@pytest.mark.parametrize("is_input", [False, True])
def test_products_of_two_signed_operands_stay(tmp_path, is_input):
    x = np.arange(80).reshape(2, 40).astype("int8" if is_input else "float32")
    nodes = [
        make_node("MatMulInteger", ["x" if is_input else "q", "w", "" if is_input else "z"], ["y"])
    ]
    if not is_input:
        nodes.insert(0, make_node("QuantizeLinear", ["x", "xs", "z"], ["q"]))
    tensors = {"xs": np.float32(1), "z": np.int8(0), "w": np.full((40, 5), 3, "int8")}
    path = write(tmp_path / "m.onnx", nodes, {"x": x}, TensorProto.INT32, tensors)
    model = onnx.load(path)
    assert with_unsigned_weights(model, tmp_path) is model
    engine = tvm_sparse.compile(path, verify=True, fallback="off")
    np.testing.assert_array_equal(engine.run([x])["y"], x.astype("int32") @ tensors["w"])

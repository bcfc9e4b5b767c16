"""Operators of language models that also stand outside of decoders, against ONNX Runtime."""

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from tvm_sparse.testing.one_operator import check

FLOAT = TensorProto.FLOAT


def normal(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def tables(rows, half):
    angles = np.random.default_rng(2).uniform(-3, 3, (rows, half))
    return {"cos": np.cos(angles).astype("float32"), "sin": np.sin(angles).astype("float32")}


POSITIONS = np.array([[3, 4, 0, 9, 2], [1, 1, 2, 3, 8]])


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("domain", ["", "com.microsoft"])
@pytest.mark.parametrize(
    ("x", "attributes"),
    [
        (normal(2, 3, 5, 8), {}),
        (normal(2, 5, 24), {"num_heads": 3}),
        (normal(2, 3, 5, 16), {"rotary_embedding_dim": 8, "num_heads": 3}),
    ],
    ids=["heads", "channels", "part"],
)
def test_rotary_embedding(x, attributes, domain, interleaved, tmp_path):
    positions = {"p": POSITIONS}
    inputs = ["x", "p", "cos", "sin"] if domain else ["x", "cos", "sin", "p"]
    node = make_node(
        "RotaryEmbedding", inputs, ["y"], domain=domain, interleaved=interleaved, **attributes
    )
    check(tmp_path / "m.onnx", [node], {"x": x}, FLOAT, tables(10, 4) | positions, opset=23)


def test_rotary_embedding_from_a_first_position(tmp_path):
    node = make_node("RotaryEmbedding", ["x", "p", "cos", "sin"], ["y"], domain="com.microsoft")
    tensors = tables(10, 4) | {"p": np.array([4])}
    check(tmp_path / "m.onnx", [node], {"x": normal(2, 3, 5, 8)}, FLOAT, tensors)


def test_rotary_embedding_with_tables_of_tokens(tmp_path):
    node = make_node("RotaryEmbedding", ["x", "cos", "sin"], ["y"])
    tensors = {name: table.reshape(2, 5, 4) for name, table in tables(10, 4).items()}
    check(tmp_path / "m.onnx", [node], {"x": normal(2, 3, 5, 8)}, FLOAT, tensors, opset=23)


@pytest.mark.parametrize("axis", [-1, 1])
def test_simplified_layer_normalization(axis, tmp_path):
    node = make_node("SimplifiedLayerNormalization", ["x", "g"], ["y"], axis=axis, epsilon=1e-3)
    gamma = normal(32) if axis == -1 else normal(5, 32)
    check(tmp_path / "m.onnx", [node], {"x": normal(2, 5, 32)}, FLOAT, {"g": gamma})


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("result", [0, 3])
def test_skip_simplified_layer_normalization(result, has_bias, tmp_path):
    outputs = ["y", "", "", "sum"] if result == 0 else ["norm", "", "", "y"]
    inputs = ["x", "skip", "g", *["bias"] * has_bias]
    node = make_node(
        "SkipSimplifiedLayerNormalization", inputs, outputs, domain="com.microsoft", epsilon=1e-3
    )
    tensors = {"skip": normal(2, 5, 32)[::-1].copy(), "g": normal(32), "bias": normal(32)[::-1]}
    check(tmp_path / "m.onnx", [node], {"x": normal(2, 5, 32)}, FLOAT, tensors)

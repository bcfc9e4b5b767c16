"""Small networks of tokens, from ONNX to numbers, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import tvm_sparse
from tvm_sparse.cpu.profile import native
from tvm_sparse.frontends.load import import_module
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.sparsify.token_network import token_network
from tvm_sparse.testing.models import onnxruntime_outputs, pruned, write_onnx

node = onnx.helper.make_node
CHANNELS, HEADS = 32, 2


def heads(
    name: str, tokens: int, order: list[int]
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Return the nodes that make heads of the result `name` of a linear layer, and their shape."""
    shape = {f"{name}_shape": np.int64([1, tokens, HEADS, CHANNELS // HEADS])}
    return [
        node("Reshape", [name, f"{name}_shape"], [f"{name}_tokens"]),
        node("Transpose", [f"{name}_tokens"], [f"{name}_heads"], perm=order),
    ], shape


@pytest.mark.parametrize("columns", ["auto", "off"])
@pytest.mark.parametrize(("queries", "keys"), [(6, 17), (17, 6), (1, 40), (40, 1), (70, 16)])
def test_attention_to_another_sequence(tmp_path, queries, keys, columns):
    rng = np.random.default_rng(0)
    weights = {f"w{name}": pruned(rng, (CHANNELS, CHANNELS), 0.2) for name in "qkvo"}
    nodes = []
    for name in "qkv":
        tokens, order = (queries if name == "q" else keys), [0, 2, 1, 3]
        nodes.append(node("MatMul", ["x" if name == "q" else "e", f"w{name}"], [name]))
        made, shape = heads(name, tokens, [0, 2, 3, 1] if name == "k" else order)
        nodes, weights = [*nodes, *made], {**weights, **shape}
    weights["joined"] = np.int64([1, queries, CHANNELS])
    nodes += [
        node("MatMul", ["q_heads", "k_heads"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v_heads"], ["o"]),
        node("Transpose", ["o"], ["o_tokens"], perm=[0, 2, 1, 3]),
        node("Reshape", ["o_tokens", "joined"], ["o_joined"]),
        node("MatMul", ["o_joined", "wo"], ["mixed"]),
        node("Add", ["mixed", "x"], ["y"]),
    ]
    shapes = {"x": (1, queries, CHANNELS), "e": (1, keys, CHANNELS)}
    path = write_onnx(tmp_path / "model.onnx", nodes, shapes, ["y"], weights)
    feed = {name: rng.standard_normal(s).astype("float32") for name, s in shapes.items()}
    want = onnxruntime_outputs(path, feed)["y"]
    got = tvm_sparse.compile(path, columns=columns).run(feed)["y"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 10), (1, 1, 10), (2, 1, 10), (1, 4, 10), (1, 1, 4, 10)])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "LayerNormalization"])
def test_the_last_axis_by_its_number(tmp_path, operator, shape):
    """An exporter that counts axes from the front, and a graph whose number of axes changes."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((32, 10)).astype("float32"),
        "shape": np.int64(shape),
        "scale": np.ones(10, "float32"),
    }
    scale = ["scale"] if operator == "LayerNormalization" else []
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Reshape", ["a", "shape"], ["b"]),
        node(operator, ["b", *scale], ["y"], axis=len(shape) - 1),
    ]
    rows = int(np.prod(shape)) // 10
    path = write_onnx(tmp_path / "model.onnx", nodes, {"x": (rows, 32)}, ["y"], weights)
    x = rng.standard_normal((rows, 32)).astype("float32")
    want = onnxruntime_outputs(path, {"x": x})["y"]
    np.testing.assert_allclose(tvm_sparse.compile(path).run({"x": x})["y"], want, atol=1e-5)


def test_a_vector_is_a_token(tmp_path):
    weight = pruned(np.random.default_rng(0), (64, 96), 0.2)
    path = write_onnx(
        tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])], {"x": [64]}, ["y"], {"w": weight}
    )
    (layer,) = token_network(pipeline.canonical(import_module(path).mod, native()), native()).layers
    assert layer[:4] == (1, 1, 64, 96)

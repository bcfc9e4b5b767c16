"""Arrays with an extent of 0: inputs, constants and results between nodes."""

import logging

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.errors import InputError
from tvm_sparse.testing.models import onnxruntime_outputs, write_onnx

NOTHING = make_node("Slice", ["x", "zero", "zero", "one"], ["e"])
WEIGHTS = {
    "zero": np.array([0]),
    "one": np.array([1]),
    "pads": np.array([0, 1, 0, 0, 2, 0]),
    "sizes": np.array([0, 4]),
    "w": np.random.default_rng(0).standard_normal((5, 6)).astype("float32"),
}


def check(path, shapes):
    rng = np.random.default_rng(1)
    inputs = {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    expected = onnxruntime_outputs(path, inputs)
    tvm_sparse.compile(path, fallback="off", threads=1).save(path.with_suffix(".so"))
    engine = tvm_sparse.load(path.with_suffix(".so"))
    for name, value in engine.run(inputs).items():
        assert (value.shape, value.dtype) == (expected[name].shape, expected[name].dtype)
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


def test_reductions_of_nothing(tmp_path):
    kinds = ("Sum", "Max", "Min", "Mean", "Prod", "L1", "LogSum", "LogSumExp", "SumSquare")
    nodes = [make_node(f"Reduce{kind}", ["e", "one"], [kind]) for kind in kinds]
    path = write_onnx(
        tmp_path / "m.onnx", [NOTHING, *nodes], {"x": [3, 4, 5]}, kinds, WEIGHTS, opset=18
    )
    check(path, {"x": (3, 4, 5)})


BETWEEN = {
    "a product without rows": [
        make_node("MatMul", ["e", "w"], ["a"]),
        make_node("Relu", ["a"], ["b"]),
        make_node("Softmax", ["b"], ["y"]),
    ],
    "a product over nothing": [
        make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        make_node("Slice", ["t", "zero", "zero", "two"], ["k"]),
        make_node("MatMul", ["x", "k"], ["s"]),
        make_node("Softmax", ["s"], ["p"]),
        make_node("MatMul", ["p", "e"], ["y"]),
    ],
    "padding": [make_node("Pad", ["e", "pads"], ["y"])],
    "a running sum": [make_node("CumSum", ["e", "first"], ["y"])],
    "an empty part": [
        make_node("Split", ["x", "sizes"], ["a", "b"], axis=1),
        make_node("Tanh", ["a"], ["c"]),
        make_node("Concat", ["c", "b"], ["y"], axis=1),
    ],
    "none of the largest": [make_node("TopK", ["x", "zero"], ["y", "i"], axis=1)],
}


@pytest.mark.parametrize("nodes", BETWEEN.values(), ids=list(BETWEEN))
def test_between_nodes(tmp_path, nodes):
    weights = WEIGHTS | {"two": np.array([2]), "first": np.array(1)}
    path = write_onnx(tmp_path / "m.onnx", [NOTHING, *nodes], {"x": [3, 4, 5]}, ["y"], weights)
    check(path, {"x": (3, 4, 5)})


def test_inputs(tmp_path, caplog):
    nodes = [
        make_node("Concat", ["x", "z"], ["c"], axis=1),
        make_node("MatMul", ["c", "w"], ["y"]),
        make_node("Relu", ["x"], ["r"]),
    ]
    shapes = {"x": [3, 0, 5], "z": [3, 2, 5]}
    path = write_onnx(tmp_path / "m.onnx", nodes, shapes, ["y", "r"], WEIGHTS)
    with caplog.at_level(logging.WARNING, "tvm_sparse"):
        check(path, shapes)
    (warning,) = {record.getMessage() for record in caplog.records}
    assert "input 'x' has shape (3, 0, 5)" in warning and "give the shape" in warning


def test_constants(tmp_path):
    weights = {"nothing": np.zeros((0, 4), "float32"), "none": np.zeros((2, 0), "float32")}
    nodes = [make_node("Relu", ["x"], ["y"])]
    outputs = ["y", "nothing", "none"]
    check(write_onnx(tmp_path / "m.onnx", nodes, {"x": [3]}, outputs, weights), {"x": (3,)})


def test_the_user_gives_a_size_in_place_of_0(tmp_path):
    nodes = [make_node("Relu", ["x"], ["y"])]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [0, 5]}, ["y"], {})
    engine = tvm_sparse.compile(path, {"x": (2, 5)}, threads=1)
    assert engine.run({"x": np.ones((2, 5), "float32")})["y"].shape == (2, 5)


def test_a_size_that_is_not_known_is_not_0(tmp_path):
    nodes = [make_node("Relu", ["x"], ["y"])]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [2, 5]}, ["y"], {})
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    onnx.save(model, path)
    with pytest.raises(InputError, match="is dynamic"):
        tvm_sparse.compile(path)

"""Inputs that are made from a graph fit it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_sparse.specs import TensorSpec
from tvm_sparse.verification.inputs import UnknownInput, example_inputs

TYPES = {
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "float32": TensorProto.FLOAT,
}


def example(nodes, specs, weights=None, types=TYPES):
    inputs = [helper.make_tensor_value_info(s.name, types[s.dtype], s.shape) for s in specs]
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    outputs = [onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    found = example_inputs(model, specs)
    for spec in specs:
        spec.check(found[spec.name])
    return found


def test_numbers_are_normal():
    x = example(
        [helper.make_node("Relu", ["x"], ["y"])], [TensorSpec("x", (1, 3, 64, 64), "float32")]
    )
    assert abs(x["x"].mean()) < 0.1 and abs(x["x"].std() - 1) < 0.1


IDS = TensorSpec("ids", (2, 50), "int64")
TABLE = {"table": np.zeros((7, 4), "float32")}


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        [
            helper.make_node("Cast", ["ids"], ["c"], to=TensorProto.INT32),
            helper.make_node("Unsqueeze", ["c", "zero"], ["u"]),
            helper.make_node("Gather", ["table", "u"], ["y"]),
        ],
        [
            helper.make_node("Equal", ["ids", "zero"], ["e"]),
            helper.make_node("Gather", ["table", "ids"], ["y"]),
        ],
        [
            helper.make_node("Relu", ["table"], ["r"]),
            helper.make_node("Gather", ["r", "ids"], ["y"]),
        ],
    ],
    ids=["directly", "through views", "and as a mask", "of a tensor that is computed"],
)
def test_ids_are_below_the_size_of_their_table(nodes):
    ids = example(nodes, [IDS], TABLE | {"zero": np.array([0])})["ids"]
    assert ids.min() == 0 and ids.max() == 6


def test_ids_fit_the_smallest_table_and_their_axis():
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["a"]),
        helper.make_node("Gather", ["table", "ids"], ["y"], axis=1),
    ]
    assert example(nodes, [IDS], TABLE)["ids"].max() == 3


@pytest.mark.parametrize("dtype", ["int64", "int32", "bool"])
def test_masks_are_ones_and_zeros(dtype):
    nodes = [helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT)]
    mask = example(nodes, [TensorSpec("m", (4, 30), dtype)])["m"]
    assert set(np.unique(mask).tolist()) == {0, 1}
    assert mask[:, 0].all()


def test_lengths_are_at_most_those_of_the_sequences():
    nodes = [helper.make_node("LSTM", ["x", "w", "r", "", "n"], ["y"], hidden_size=2)]
    weights = {"w": np.zeros((1, 8, 3), "float32"), "r": np.zeros((1, 8, 2), "float32")}
    specs = [TensorSpec("x", (5, 40, 3), "float32"), TensorSpec("n", (40,), "int32")]
    lengths = example(nodes, specs, weights)["n"]
    assert lengths.min() == 1 and lengths.max() == 5


def test_images_of_eight_bits_have_all_values():
    nodes = [helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)]
    image = example(nodes, [TensorSpec("i", (1, 3, 64, 64), "uint8")])["i"]
    assert image.min() == 0 and image.max() == 255


@pytest.mark.parametrize("operator", ["Div", "Mod"])
def test_divisors_are_not_zero(operator):
    nodes = [
        helper.make_node(operator, ["a", "n"], ["y"]),
        helper.make_node("Equal", ["n", "a"], ["e"]),
    ]
    found = example(nodes, [TensorSpec("a", (40,), "int64"), TensorSpec("n", (40,), "int64")])
    assert found["n"].all()


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Slice", ["table", "n", "n"], ["y"])],
        [helper.make_node("Reshape", ["table", "n"], ["y"])],
        [helper.make_node("ConstantOfShape", ["n"], ["y"])],
        [
            helper.make_node("Squeeze", ["n"], ["s"]),
            helper.make_node("Range", ["zero", "s", "one"], ["y"]),
        ],
    ],
    ids=["slice", "reshape", "constant of shape", "range behind a view"],
)
def test_what_decides_about_shapes_is_unknown(nodes):
    with pytest.raises(UnknownInput, match="input 'n' decides about shapes"):
        example(nodes, [TensorSpec("n", (1,), "int64")], TABLE)


def test_a_scalar():
    nodes = [helper.make_node("Cast", ["n"], ["y"], to=TensorProto.FLOAT)]
    assert example(nodes, [TensorSpec("n", (), "int64")])["n"] in (0, 1)

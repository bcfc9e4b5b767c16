"""Networks that have something of a decoder, and are none: they compile as any other network."""

import numpy as np
import onnx
import pytest
from onnx import helper

import tvm_sparse
from tvm_sparse.frontends.decoders.decoder import is_decoder
from tvm_sparse.testing.models import onnxruntime_outputs, write_onnx

node = helper.make_node
RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.standard_normal(shape).astype("float32")


def write(path, nodes, inputs, outputs, constants, opset):
    shapes = {name: array.shape for name, array in inputs.items()}
    model = onnx.load(write_onnx(path, nodes, shapes, outputs, constants, opset))
    for value in model.graph.input:
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(inputs[value.name].dtype)
    onnx.save(model, path)
    return path


TOKENS = {"tokens": np.int64([[3, 1, 4]])}
WORDS = [node("Gather", ["table", "tokens"], ["words"]), node("Softmax", ["words"], ["y"])]
STREAM = {"x": floats(1, 2, 4, 8), "keys": floats(1, 2, 6, 8), "values": floats(1, 2, 6, 8)}
PAST = ["keys", "values"]
KINDS = {
    "a stream of sound": (
        [
            node("MatMul", ["x", "w"], ["h"]),
            node("Concat", ["keys", "h"], ["all_keys"], axis=2),
            node("Concat", ["values", "x"], ["all_values"], axis=2),
            node("Transpose", ["all_keys"], ["turned"], perm=[0, 1, 3, 2]),
            node("MatMul", ["x", "turned"], ["scores"]),
            node("Softmax", ["scores"], ["shares"]),
            node("MatMul", ["shares", "all_values"], ["y"]),
        ],
        STREAM, ["y", "all_keys", "all_values"], {"w": floats(8, 8)}, 17,
    ),
    "Attention of the standard": (
        [node("Attention", ["x", "x", "x", "", *PAST], ["y", "all_keys", "all_values"])],
        STREAM, ["y", "all_keys", "all_values"], {}, 23,
    ),
    "an image beside itself": (
        [node("Concat", ["x", "x"], ["c"], axis=2), *WORDS],
        {**TOKENS, "x": floats(1, 2, 4, 8)}, ["c", "y"], {"table": floats(9, 5)}, 17,
    ),
    "an image and what is computed of it": (
        [node("Exp", ["x"], ["h"]), node("Concat", ["x", "h"], ["c"], axis=2), *WORDS],
        {**TOKENS, "x": floats(1, 2, 4, 8)}, ["c", "y"], {"table": floats(9, 5)}, 17,
    ),
    "channels of which a softmax is made": (
        [
            node("Exp", ["x"], ["h"]), node("Concat", ["x", "h"], ["c"], axis=1), *WORDS[:1],
            node("Softmax", ["c"], ["y"], axis=1),
        ],
        {**TOKENS, "x": floats(1, 2, 4, 8)}, ["c", "words", "y"], {"table": floats(9, 5)}, 17,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_networks_with_something_of_a_decoder(name, tmp_path):
    nodes, inputs, outputs, constants, opset = KINDS[name]
    path = write(tmp_path / "m.onnx", nodes, inputs, outputs, constants, opset)
    assert not is_decoder(path)
    engine = tvm_sparse.compile(path, threads=1)
    found, expected = engine.run(inputs), onnxruntime_outputs(path, inputs)
    for output in outputs:
        np.testing.assert_allclose(found[output], expected[output], rtol=1e-4, atol=1e-5)

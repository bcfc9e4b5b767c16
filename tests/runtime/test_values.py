"""Values of inputs that no node can take end in one clear error, and never outside of memory."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.errors import InputError

X = np.arange(48, dtype="float32").reshape(6, 8)
HUGE = 2**40
LAST = 2**63 - 1


def integers(*values):
    return np.array(values, "int64")


def gates(cells, directions=1):
    rng = np.random.default_rng(0)
    shapes = {"w": (directions, cells * 2, 4), "r": (directions, cells * 2, 2)}
    return {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


# For each operator: its inputs, values of them that ONNX Runtime takes and refuses, attributes.
CASES = {
    "Expand": (
        {"x": X[:, :1], "s": integers(6, 8)},
        [{"s": integers(1, 3)}],
        [{"s": integers(5, 8)}, {"s": integers(-1, 8)}, {"s": integers(6, 2**62)}],
        {},
    ),
    "Tile": (
        {"x": X, "s": integers(2, 1)},
        [{"s": integers(1, 3)}],
        [
            {"s": integers(-1, 1)},
            {"s": integers(2**62, 4)},
            {"s": integers(2**32, 2**32)},
            {"s": integers(1, 2**61 + 1)},  # eight times that are 8 in 64 bits
        ],
        {},
    ),
    "MaxUnpool": (
        {"x": X[None, None, :2, :2], "i": integers([0, 3], [9, 14])[None, None]},
        [],
        [{"i": np.full((1, 1, 2, 2), i)} for i in (-1, 16, HUGE)],
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
    "RoiAlign": (
        {"x": X[None, None], "r": np.ones((2, 4), "float32"), "b": integers(0, 0)},
        [],
        [{"b": integers(0, 1)}, {"b": integers(-1, 0)}, {"b": integers(HUGE, 0)}],
        {"output_height": 2, "output_width": 2},
    ),
    "LSTM": (
        {"x": X.reshape(6, 2, 4), **gates(4), "l": np.array([6, 3], "int32")},
        [{"l": np.array([0, 1], "int32")}],
        [{"l": np.array(lengths, "int32")} for lengths in ([7, 1], [1, -1], [2**31 - 1, 0])],
        {"hidden_size": 2},
    ),
    "GRU": (
        {"x": X.reshape(6, 2, 4), **gates(3, 2), "l": np.array([6, 3], "int32")},
        [{"l": np.array([0, 1], "int32")}],
        [{"l": np.array(lengths, "int32")} for lengths in ([7, 1], [1, -1], [2**31 - 1, 0])],
        {"hidden_size": 2, "direction": "bidirectional"},
    ),
    "Slice": (
        {"x": X, **dict(zip("seat", np.array([(0, 1), (4, 8), (0, 1), (1, 2)]), strict=True))},
        [
            {"s": integers(4, 9)},
            {"s": integers(-HUGE, -3), "e": integers(LAST, LAST)},
            {"s": integers(5, -1), "e": integers(-7, -HUGE), "t": integers(-1, -3)},
            {"s": integers(-9, 7), "e": integers(-9, 0), "t": integers(-2, -LAST - 1)},
            {"s": integers(1, 1), "e": integers(6, 6), "t": integers(LAST, 1)},
        ],
        [{"t": integers(0, 1)}, {"a": integers(0, 2)}, {"a": integers(-3, 1)}],
        {},
    ),
}  # fmt: skip


def write(path, op_type, arrays, attributes):
    order = {"LSTM": "xwr-l", "GRU": "xwr-l"}.get(op_type, arrays)
    node = make_node(op_type, [n.strip("-") for n in order], ["y"], "n", **attributes)
    types = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int64": TensorProto.INT64}
    inputs = [
        helper.make_tensor_value_info(name, types[str(array.dtype)], array.shape)
        for name, array in arrays.items()
        if name not in "wr" or op_type == "RoiAlign"
    ]
    weights = [numpy_helper.from_array(arrays[n], n) for n in "wr" if n in arrays]
    if op_type == "RoiAlign":
        weights = []
    graph = helper.make_graph([node], "g", inputs, [ValueInfoProto(name="y")], weights)
    opset = [helper.make_opsetid("", 17)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    )
    return path, [value.name for value in inputs]


@pytest.mark.parametrize("op_type", CASES)
def test_values(op_type, tmp_path):
    arrays, good, bad, attributes = CASES[op_type]
    path, names = write(tmp_path / "m.onnx", op_type, arrays, attributes)
    engine = tvm_sparse.compile(path, threads=1)
    assert not engine.info.fallbacks
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    for change in [{}, *good]:
        feeds = {name: {**arrays, **change}[name] for name in names}
        np.testing.assert_allclose(
            engine.run(feeds)["y"], session.run(None, feeds)[0], rtol=1e-5, atol=1e-6
        )
    for change in bad:
        with pytest.raises(InputError, match="with these inputs "):
            engine.run({name: {**arrays, **change}[name] for name in names})


@pytest.mark.parametrize("op_type", ["Range", "MaxRoiPool"])
def test_what_tvm_does_not_check_is_run_by_onnx_runtime(op_type, tmp_path):
    arrays, wrong, attributes = {
        "Range": (
            {name: np.array(value, "int64") for name, value in zip("abc", (0, 5, 1), strict=True)},
            {"c": np.array(0, "int64")},
            {},
        ),
        "MaxRoiPool": (
            {"x": X[None, None], "o": np.array([[0, 0, 0, 4, 4]], "float32")},
            {"o": np.array([[9, 0, 0, 4, 4]], "float32")},
            {"pooled_shape": [2, 2]},
        ),
    }[op_type]
    path, _ = write(tmp_path / "m.onnx", op_type, arrays, attributes)
    engine = tvm_sparse.compile(path, threads=1)
    assert [fallback.operator for fallback in engine.info.fallbacks] == [op_type]
    engine.run(arrays)
    with pytest.raises(InputError, match="ONNX Runtime cannot run its part"):
        engine.run({**arrays, **wrong})

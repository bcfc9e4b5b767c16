"""The layers that stay in float32 are those around values that float16 cannot hold."""

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from tvm_sparse.cpu.precision import processor
from tvm_sparse.errors import InputError
from tvm_sparse.testing.models import write_onnx
from tvm_sparse.verification.calibration import LARGEST, calibrate, calibration_for

SIZE = 8


def chain(path, scale, *, middle=()):
    """Write ``first > middle > second > third``, linear layers of which the first one scales."""
    nodes = [
        make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        *(middle or [make_node("Relu", ["a"], ["b"], name="relu")]),
        make_node("MatMul", ["b", "w1"], ["c"], name="second"),
        make_node("Tanh", ["c"], ["d"], name="tanh"),
        make_node("MatMul", ["d", "w2"], ["y"], name="third"),
    ]
    eye = np.eye(SIZE, dtype=np.float32)
    weights = {"w0": scale * eye, "w1": eye / scale, "w2": eye}
    write_onnx(path, nodes, {"x": [2, SIZE]}, ["y"], weights)
    return path


@pytest.fixture
def ones():
    return {"x": np.ones((2, SIZE), np.float32)}


def test_values_in_range_keep_nothing(tmp_path, ones):
    found = calibrate(chain(tmp_path / "m.onnx", LARGEST), inputs=ones)
    assert found.layers == {} and found.refusal == ""


def test_the_layers_around_large_values_stay_in_float32(tmp_path, ones):
    found = calibrate(chain(tmp_path / "m.onnx", 1e5), inputs=ones)
    assert set(found.layers) == {"first", "second"}
    assert found.layers["first"] == "values reach 1e+05, and float16 is used up to 16,376"


def test_large_values_between_layers_count_for_those_before_them(tmp_path, ones):
    middle = [
        make_node("Exp", ["a"], ["e"], name="exp"),
        make_node("Log", ["e"], ["b"], name="log"),
    ]
    found = calibrate(chain(tmp_path / "m.onnx", 20, middle=middle), inputs=ones)
    assert set(found.layers) == {"first"}


def test_nan_and_infinity_are_no_values_of_float16(tmp_path):
    x = np.full((2, SIZE), np.inf, np.float32)
    found = calibrate(chain(tmp_path / "m.onnx", 1), inputs={"x": x})
    assert {"first", "second"} <= set(found.layers)


def test_squares_of_a_normalization_and_masked_scores_do_not_count(tmp_path, ones):
    middle = [
        make_node("Mul", ["a", "a"], ["square"], name="square"),
        make_node("ReduceMean", ["square"], ["variance"], name="mean", axes=[-1]),
        make_node("Sqrt", ["variance"], ["deviation"], name="sqrt"),
        make_node("Div", ["a", "deviation"], ["normal"], name="div"),
        make_node("Sub", ["normal", "mask"], ["scores"], name="sub"),
        make_node("Softmax", ["scores"], ["b"], name="softmax", axis=-1),
    ]
    path = tmp_path / "m.onnx"
    eye = np.eye(SIZE, dtype=np.float32)
    mask = np.where(np.arange(SIZE) < 4, 0, 1e30).astype(np.float32)
    nodes = [
        make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        *middle,
        make_node("MatMul", ["b", "w1"], ["y"], name="second"),
    ]
    weights = {"w0": 1000 * eye, "w1": eye, "mask": mask}
    write_onnx(path, nodes, {"x": [2, SIZE]}, ["y"], weights)
    assert calibrate(path, inputs=ones).layers == {}


def test_random_inputs_serve_where_none_are_given(tmp_path):
    assert set(calibrate(chain(tmp_path / "m.onnx", 1e6)).layers) == {"first", "second"}


def test_calibration_needs_every_input(tmp_path):
    with pytest.raises(InputError, match="no values of input 'x'"):
        calibrate(chain(tmp_path / "m.onnx", 1), inputs={"z": np.ones(3)})


def test_what_decides_about_shapes_is_not_guessed(tmp_path):
    nodes = [
        make_node("Cast", ["size"], ["shape"], name="cast", to=TensorProto.INT64),
        make_node("Expand", ["x", "shape"], ["y"], name="expand"),
    ]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, SIZE], "size": [2]}, ["y"], {})
    assert "give inputs" in calibrate(path).refusal


@pytest.mark.parametrize(("tokens", "found"), [(3, set()), (9, {"first", "second"})])
def test_open_dimensions_have_the_sizes_of_the_inputs_or_of_the_hints(tmp_path, tokens, found):
    """The sum of all tokens leaves the range from the fifth token on."""
    nodes = [
        make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        make_node("ReduceSum", ["a", "axes"], ["b"], name="sum", keepdims=1),
        make_node("MatMul", ["b", "w1"], ["y"], name="second"),
    ]
    eye = np.eye(SIZE, dtype=np.float32)
    weights = {"w0": LARGEST / 4 * eye, "w1": eye, "axes": np.array([1], np.int64)}
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, "tokens", SIZE]}, ["y"], weights)
    cpu = processor("rpi5", None, "float16")
    ones = {"x": np.ones((1, tokens, SIZE), np.float32)}
    assert set(calibration_for(cpu, path, inputs=ones).layers) == found
    assert calibration_for(cpu, path, hints={"tokens": tokens}).refusal == ""

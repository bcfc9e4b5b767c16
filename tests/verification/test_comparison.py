"""How far outputs may be from those of ONNX Runtime."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from tvm_sparse.dtypes import DType
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.testing.models import write_onnx
from tvm_sparse.verification.comparison import (
    HALF_TOLERANCE,
    RMS_TOLERANCE,
    Difference,
    Reference,
    Refused,
    difference,
    relative_rms,
)


def array(*values, dtype="float32"):
    return np.array(values, dtype)


class TestDifference:
    def test_it_is_a_share_of_the_spread(self):
        assert difference(array(-1, 1), array(-1, 1.5)) == pytest.approx(0.25)
        # 1000 and 1001: a tenth of the magnitude is more than the spread
        assert difference(array(1000, 1001), array(1000, 1002)) == pytest.approx(0.01, rel=1e-2)

    @pytest.mark.parametrize("value", [0.0, 3.0])
    def test_one_value(self, value):
        assert difference(array(value), array(value)) == 0
        assert difference(array(value), array(value + 1)) > 0.1

    def test_values_that_are_not_finite(self):
        expected = array(np.nan, np.inf, -np.inf, 1)
        assert difference(expected, expected.copy()) == 0
        for place in range(4):
            other = expected.copy()
            other[place] = 5 if place < 3 else np.nan
            assert difference(expected, other) == np.inf

    @pytest.mark.parametrize(
        "other", [np.zeros((2, 3), "float64"), np.zeros((3, 2), "float32")], ids=["dtype", "shape"]
    )
    def test_other_arrays(self, other):
        assert difference(np.zeros((2, 3), "float32"), other) == np.inf

    @pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "float16", "float64"])
    def test_dtypes(self, dtype):
        expected = array(0, 1, 1, dtype=dtype)
        assert difference(expected, expected.copy()) == 0
        assert difference(expected, array(0, 1, 0, dtype=dtype)) == 1

    def test_empty(self):
        assert difference(np.zeros((0, 2)), np.zeros((0, 2))) == 0

    def test_nan_is_an_error(self):
        assert Difference("y", np.nan, 1).is_error


def reference(tmp_path, *nodes, weights=None, inputs=None):
    path = write_onnx(tmp_path / "m.onnx", nodes, inputs or {"x": [4, 8]}, ["y"], weights or {})
    return Reference(*read_model(path))


def test_a_large_difference_is_an_error(tmp_path):
    one = reference(tmp_path, helper.make_node("Relu", ["x"], ["y"]))
    x = np.random.default_rng(0).standard_normal((4, 8)).astype("float32")
    (right,) = one.compare({"x": x}, {"y": np.maximum(x, 0)})
    assert not right.is_error and right.share == 0
    (wrong,) = one.compare({"x": x}, {"y": np.abs(x)})
    assert wrong.is_error and wrong.allowed == pytest.approx(1e-3)


def test_last_bits_may_decide(tmp_path):
    """Sign of a number that is zero but for rounding: ONNX Runtime differs from itself."""
    one = reference(
        tmp_path,
        helper.make_node("Sub", ["x", "c"], ["d"]),
        helper.make_node("Sign", ["d"], ["y"]),
        weights={"c": np.ones((4, 8), "float32")},
    )
    x = np.ones((4, 8), "float32")
    (found,) = one.compare({"x": x}, {"y": np.sign(x * 0 + 1e-7)})
    assert not found.is_error and found.share > 0.1


def test_last_bits_of_weights_may_decide(tmp_path):
    """Indices have no last bits, but what they look up is rounded all the same."""
    one = reference(
        tmp_path,
        helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "ids"], ["t"]),
        helper.make_node("Round", ["t"], ["y"]),
        weights={"table": np.arange(16, dtype="float32") + np.float32(0.5)},
    )
    ids = np.arange(32).reshape(4, 8) % 16
    (found,) = one.compare({"x": ids.astype("float32")}, {"y": ids.astype("float32")})
    assert not found.is_error and found.share > 0.05
    (wrong,) = one.compare({"x": ids.astype("float32")}, {"y": ids.astype("float32") * 2})
    assert wrong.is_error


def test_last_bits_of_large_weights_may_decide(tmp_path):
    one = reference(
        tmp_path,
        helper.make_node("MatMul", ["x", "w"], ["t"]),
        helper.make_node("Round", ["t"], ["y"]),
        weights={"w": np.eye(8, 64, dtype="float32") / 2},
    )
    assert set(one._weights) == {"w"}, "a message without it is smaller"
    halves, ones = np.ones((4, 8), "float32"), np.eye(8, 64, dtype="float32").sum(0)
    (found,) = one.compare({"x": halves}, {"y": np.tile(ones, (4, 1))})
    assert not found.is_error and found.share > 0.05
    (wrong,) = one.compare({"x": halves}, {"y": np.tile(9 * ones, (4, 1))})
    assert wrong.is_error


def test_an_error_of_a_model_that_cannot_be_optimized_is_one(tmp_path, monkeypatch):
    one = reference(tmp_path, helper.make_node("Relu", ["x"], ["y"]))
    run = one.run

    def refuse_to_optimize(inputs, optimized=False, threads=0):
        if optimized:
            raise Refused("its optimizers fail")
        return run(inputs, threads=threads)

    monkeypatch.setattr(one, "run", refuse_to_optimize)
    x = np.ones((4, 8), "float32")
    (found,) = one.compare({"x": x}, {"y": x + 1})
    assert found.is_error


def test_a_model_that_onnxruntime_cannot_run(tmp_path):
    node = helper.make_node("Nothing", ["x"], ["y"], domain="nowhere")
    path = write_onnx(tmp_path / "m.onnx", [node], {"x": [4, 8]}, ["y"], {}, domains=["nowhere"])
    with pytest.raises(Refused, match="Nothing"):
        Reference(*read_model(path)).run({"x": np.zeros((4, 8), "float32")})


def test_float16_may_differ_by_a_share_of_the_largest_value_and_in_rms(tmp_path):
    one = reference(tmp_path, helper.make_node("Identity", ["x"], ["y"]))
    x = np.random.default_rng(0).standard_normal((4, 8)).astype("float32")
    largest = np.abs(x).max()
    x[0, 0] = largest

    def found(change):
        (difference,) = one.compare({"x": x}, {"y": x + change}, precision=DType.FLOAT16)
        return difference

    spike = np.zeros_like(x)
    spike[0, 0] = 0.9 * HALF_TOLERANCE * largest
    assert not found(spike).is_error and found(spike).share == pytest.approx(0.9e-2, rel=1e-3)
    assert found(2 * spike).is_error
    everywhere = np.full_like(x, 0.9 * HALF_TOLERANCE * largest)
    assert found(everywhere).rms > RMS_TOLERANCE and found(everywhere).is_error
    (strict,) = one.compare({"x": x}, {"y": x + spike})
    assert strict.is_error, "float32 may not"


def test_relative_rms():
    assert relative_rms(array(3, 4), array(3, 4)) == 0
    assert relative_rms(array(3, 4), array(3, 4.5)) == pytest.approx(0.1)
    assert relative_rms(array(3, np.inf), array(3, np.inf)) == 0
    assert relative_rms(np.array(["a"]), np.array(["b"])) == 0

"""Operators of ai.onnx.ml, against ONNX Runtime."""

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.testing.models import onnxruntime_outputs
from tvm_sparse.testing.one_operator import outputs, write

ROWS = np.array(
    [[1, -2, 3], [0, 0, 0], [-1, -2, -3], [np.nan, 1, 2], [np.inf, 1, 2], [0.5, 1, 0.5]], "float32"
)
TALL = np.random.default_rng(0).standard_normal((70, 33)).astype("float32")
INTS = np.array([[1, 2, -3], [4, 0, 7]], "int64")


def node(op_type, **attributes):
    return make_node(op_type, ["x"], ["y"], domain="ai.onnx.ml", **attributes)


def scale(features):
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(features).tolist() for name in ("offset", "scale")}


CASES = [
    pytest.param(node("Scaler", **scale(3)), ROWS, id="scaler"),
    pytest.param(node("Scaler", **scale(1)), ROWS, id="scaler of one number"),
    pytest.param(node("Scaler", **scale(33)), TALL, id="scaler of many"),
    pytest.param(node("Scaler", **scale(3)), INTS, id="scaler of integers"),
    pytest.param(node("Scaler", **scale(3)), INTS.astype("int32"), id="scaler of int32"),
    pytest.param(node("Scaler", **scale(3)), 1e9 + INTS.astype("float64"), id="scaler of doubles"),
    pytest.param(node("Scaler", **scale(3)), ROWS[0], id="scaler of a row"),
    *(
        pytest.param(node("Normalizer", norm=norm), x, id=f"{norm} of {kind}")
        for norm in ("MAX", "L1", "L2")
        for kind, x in {"rows": ROWS, "many": TALL, "integers": INTS, "a row": ROWS[2]}.items()
    ),
    pytest.param(node("Normalizer"), ROWS.astype("float64"), id="normalizer of doubles"),
    pytest.param(
        node("Imputer", imputed_value_floats=[9.0], replaced_value_float=float("nan")),
        ROWS,
        id="imputer of NaN",
    ),
    pytest.param(
        node("Imputer", imputed_value_floats=[9.0, 8.0, 7.0], replaced_value_float=1.0),
        ROWS,
        id="imputer of a number",
    ),
    pytest.param(
        node("LinearRegressor", coefficients=scale(33)["scale"], intercepts=[0.5]),
        TALL,
        id="linear",
    ),
    pytest.param(
        node("LinearRegressor", coefficients=scale(66)["scale"], targets=2), TALL, id="two targets"
    ),
]


@pytest.mark.parametrize(("operator", "x"), CASES)
def test_numbers(operator, x, tmp_path):
    path = write(tmp_path / "model.onnx", [operator], {"x": x}, TensorProto.FLOAT, {})
    got, want = outputs(path, {"x": x})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("operator", "x"),
    [
        pytest.param(
            node("Imputer", imputed_value_floats=[9.0, 8.0, 7.0]), ROWS[None], id="three axes"
        ),
        pytest.param(
            node("LinearRegressor", coefficients=[1.0] * 3, post_transform="LOGISTIC"),
            ROWS,
            id="post_transform",
        ),
    ],
)
def test_onnx_runtime_runs_others(operator, x, tmp_path):
    path = write(tmp_path / "model.onnx", [operator], {"x": x}, TensorProto.FLOAT, {})
    engine = tvm_sparse.compile(path)
    assert [found.operator for found in engine.info.fallbacks] == [f"ai.onnx.ml.{operator.op_type}"]
    (want,) = onnxruntime_outputs(path, {"x": x}).values()
    np.testing.assert_allclose(engine.run({"x": x})["y"], want, rtol=1e-5)

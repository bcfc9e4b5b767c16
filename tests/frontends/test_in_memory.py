"""Models in memory are compiled like files."""

import numpy as np
import onnx
import pytest

import tvm_sparse
from tvm_sparse.errors import InputError, ModelError
from tvm_sparse.testing.models import onnxruntime_outputs, write_mlp

X = np.random.default_rng(0).standard_normal((1, 20, 32)).astype("float32")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_mlp(tmp_path_factory.mktemp("mlp") / "mlp.onnx")


def test_a_model_in_memory(path):
    (expected,) = onnxruntime_outputs(path, {"x": X}).values()
    for model in (path.read_bytes(), onnx.load(path)):
        engine = tvm_sparse.compile(model, {"batch": 1, "tokens": 20}, threads=1, verify=True)
        assert engine.inputs[0].shape == X.shape
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(engine(X)["y"], expected, rtol=0, atol=atol)


def test_errors_name_no_file():
    with pytest.raises(ModelError, match=r"^the model: not an ONNX model, or a truncated one"):
        tvm_sparse.compile(b"no model")


@pytest.mark.parametrize("shapes", ["1,20,32", [(1, 20, 32)], (1, 20, 32)])
def test_shapes_that_name_no_input(path, shapes):
    with pytest.raises(InputError, match=r"a dict of shapes.* such as \{'x': "):
        tvm_sparse.compile(path, shapes)

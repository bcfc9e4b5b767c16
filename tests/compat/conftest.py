"""Small models for the interfaces of other engines."""

import numpy as np
import pytest
from onnx.helper import make_node

from tvm_sparse.testing.models import onnxruntime_outputs, pruned, write_onnx


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Two inputs and two outputs, for a batch of 4 that is written into the file."""
    rng = np.random.default_rng(0)
    weights = {"w": pruned(rng, (64, 96), 0.1), "v": pruned(rng, (48, 96), 0.1)}
    nodes = [
        make_node("MatMul", ["b", "w"], ["h"], name="first"),
        make_node("MatMul", ["a", "v"], ["g"], name="second"),
        make_node("Add", ["h", "g"], ["sum"]),
        make_node("Relu", ["sum"], ["out"]),
    ]
    inputs = {"b": [4, 64], "a": [4, 48]}
    return write_onnx(
        tmp_path_factory.mktemp("compat") / "m.onnx", nodes, inputs, ["out", "h"], weights
    )


@pytest.fixture
def inputs():
    rng = np.random.default_rng(1)
    return [rng.standard_normal((4, size)).astype("float32") for size in (64, 48)]


@pytest.fixture
def expected(model, inputs):
    return onnxruntime_outputs(model, dict(zip(("b", "a"), inputs, strict=True)))

"""Which layers of a float16 network run on the matrix unit AMX, and that they are right there."""

import numpy as np
import pytest
import tvm
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.cpu.precision import processor
from tvm_sparse.cpu.profile import native
from tvm_sparse.frontends.load import import_module
from tvm_sparse.passes.pipeline import front
from tvm_sparse.testing.models import pruned, write_onnx


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Convolutions and linear layers, dense but for one; the last convolution has two groups."""
    rng = np.random.default_rng(0)

    def weight(*shape):
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")

    weights = {
        "w0": weight(64, 3, 7, 7),
        "w1": weight(64, 64, 3, 3),
        "w2": weight(128, 64, 1, 1),
        "w3": pruned(rng, (64, 128, 3, 3), 0.03),
        "w4": weight(32, 32, 3, 3),
        "b0": weight(64, 1).ravel(),
    }
    nodes = [
        make_node("Conv", ["x", "w0", "b0"], ["c0"], strides=[2, 2], pads=[3, 3, 3, 3]),
        make_node("Relu", ["c0"], ["r0"]),
        make_node(
            "MaxPool", ["r0"], ["p0"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        make_node("Conv", ["p0", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        make_node("Add", ["c1", "p0"], ["s1"]),
        make_node("Conv", ["s1", "w2"], ["c2"]),
        make_node("Conv", ["c2", "w3"], ["c3"], pads=[1, 1, 1, 1]),
        make_node("Conv", ["c3", "w4"], ["y"], pads=[1, 1, 1, 1], group=2),
    ]
    path = tmp_path_factory.mktemp("matrix_unit") / "model.onnx"
    write_onnx(path, nodes, {"x": [1, 3, 64, 64]}, ["y"], weights)
    return path


def operators_of(model, target):
    """Return the names of our operators with weights, in the order of the network."""
    mod = front(import_module(model).mod, processor(target, 2, "float16")).mod
    found = []

    def visit(expr):
        name = getattr(getattr(expr, "op", None), "name", "")
        if name.startswith("relax.tvm_sparse.") and ("conv2d" in name or "linear" in name):
            found.append(name.removeprefix("relax.tvm_sparse."))

    tvm.relax.analysis.post_order_visit(mod["main"], visit)
    return found


def test_dense_layers_of_one_group_run_on_the_unit(model):
    found = operators_of(model, "sapphirerapids")
    assert found[:3] == ["amx_conv2d", "amx_conv2d", "amx_linear"]
    assert "amx" not in "".join(found[3:])


def test_without_the_unit_they_run_on_vectors(model):
    found = operators_of(model, "sapphirerapids-amx")
    assert found[0] == "conv2d" and "amx" not in "".join(found)


@pytest.mark.skipif(
    not (native().has_matrix_unit and native().has_half),
    reason="this processor has no matrix unit for bfloat16 (AMX)",
)
@pytest.mark.parametrize("columns", ["auto", "off", 3])
def test_results_are_near_those_of_float32(model, columns):
    x = np.random.default_rng(1).standard_normal((1, 3, 64, 64)).astype("float32")
    with tvm_sparse.compile(model, precision="float32", threads=2) as engine:
        expected = engine.run([x])["y"]
    with tvm_sparse.compile(model, precision="float16", threads=2, columns=columns) as engine:
        y = engine.run([x])["y"]
    error = y - expected
    assert np.abs(error).max() < 1e-2 * np.abs(expected).max()
    assert np.sqrt((error**2).mean() / (expected**2).mean()) < 5e-3

"""Pruned weights on the left of products."""

import numpy as np
import pytest
import tvm
from onnx.helper import make_node
from tvm import relax

import tvm_sparse
from tvm_sparse.passes.canonicalize.move_left_weights import MoveLeftWeights
from tvm_sparse.testing.models import dataflow, onnxruntime_outputs, pruned, write_onnx

OP = relax.op
PRUNED = pruned(np.random.default_rng(0), (40, 48), 0.2)


@pytest.mark.parametrize("weight", [(40, 48), (1, 40, 48)], ids=str)
@pytest.mark.parametrize(
    "shape", [(48, 33), (1, 48, 17), (3, 48, 64), (2, 3, 48, 16), (48, 1), (3, 48, 5)], ids=str
)
def test_answers_and_kernels(tmp_path, weight, shape):
    """What follows has one number for each row of the result."""
    nodes = [
        make_node("MatMul", ["w", "x"], ["product"]),
        make_node("Add", ["product", "b"], ["sum"]),
        make_node("Relu", ["sum"], ["y"]),
    ]
    bias = np.random.default_rng(1).standard_normal((40, 1)).astype("float32")
    weights = {"w": PRUNED.reshape(weight), "b": bias}
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": list(shape)}, ["y"], weights)
    x = np.random.default_rng(2).standard_normal(shape).astype("float32")
    engine = tvm_sparse.compile(path, threads=1)
    expected = onnxruntime_outputs(path, {"x": x})["y"]
    np.testing.assert_allclose(engine.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)
    (layer,) = engine.report.layers
    assert not layer.is_lost
    assert "product" in layer.name


@pytest.mark.parametrize("what", ["dense", "small", "several", "open"])
def test_what_stays_on_the_left(what):
    weight = {
        "dense": pruned(np.random.default_rng(0), (40, 48), 0.9),
        "small": PRUNED[:20],
        "several": np.stack([PRUNED, PRUNED]),
    }.get(what, PRUNED)
    columns = tvm.tirx.Var("columns", "int64") if what == "open" else 64
    constant = relax.const(weight)
    before = dataflow(lambda emit, x: emit(OP.matmul(constant, x)), (48, columns))
    tvm.ir.assert_structural_equal(MoveLeftWeights()(before), before)

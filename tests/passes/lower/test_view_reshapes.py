"""Reshapes inside of a dataflow block are views; kernels that TVM cannot read stay as they are."""

import numpy as np
import pytest
import tvm
from onnx.helper import make_node
from tvm import relax

import tvm_sparse
from tvm_sparse.passes.lower.view_reshapes import ViewReshapes
from tvm_sparse.testing.models import onnxruntime_outputs, write_onnx

OPS = relax.op


def legalized(view, shape):
    """Return the kernels of ``exp(view(x))``."""
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(OPS.exp(builder.emit(view(x))))
        builder.emit_func_output(result)
    return relax.transform.LegalizeOps()(builder.get())


def test_a_reshape_is_a_view():
    mod = ViewReshapes()(legalized(lambda x: OPS.reshape(x, (6, 8)), (2, 3, 8)))
    assert "R.reshape(" in mod["main"].script()


@pytest.mark.parametrize("end", [1, 2])
def test_first_rows_are_copied(end):
    before = legalized(lambda x: OPS.strided_slice(x, [0], [0], [end], [3]), (2, 3, 8))
    tvm.ir.assert_structural_equal(ViewReshapes()(before), before)


def test_a_transposition_of_a_sum_of_sizes_stays_as_it_is():
    n = tvm.tirx.Var("n", "int64")

    def view(x):
        return OPS.permute_dims(x, [0, 1, 3, 2])

    before = legalized(view, (1, 2, n + 4, 8))
    tvm.ir.assert_structural_equal(ViewReshapes()(before), before)


def test_keys_that_grow_by_an_open_number(tmp_path):
    nodes = [
        make_node("Concat", ["past", "x"], ["keys"], axis=2),
        make_node("Transpose", ["keys"], ["turned"], perm=[0, 1, 3, 2]),
        make_node("MatMul", ["x", "turned"], ["y"]),
    ]
    shapes = {"past": [1, 2, "n", 8], "x": [1, 2, 4, 8]}
    path, rng = write_onnx(tmp_path / "m.onnx", nodes, shapes, ["y"], {}), np.random.default_rng(0)
    engine = tvm_sparse.compile(path, threads=1)
    for n in (3, 9):
        sizes = {"past": (1, 2, n, 8), "x": (1, 2, 4, 8)}
        inputs = {name: rng.standard_normal(size, "float32") for name, size in sizes.items()}
        expected = onnxruntime_outputs(path, inputs)["y"]
        np.testing.assert_allclose(engine.run(inputs)["y"], expected, atol=1e-5)

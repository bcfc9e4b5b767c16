from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

import tvm_sparse
from tvm_sparse.cpu.profile import native
from tvm_sparse.passes.sparsify.read_as_integers import OrReadAsIntegers
from tvm_sparse.testing.models import dataflow

RNG = np.random.default_rng(0)
NEEDS_HALF = pytest.mark.skipif(
    not native().has_half, reason="this CPU does not compute with float16"
)


def exact(body, *shapes):
    return set(OrReadAsIntegers(("given",), dataflow(body, *shapes)))


def product(emit, x):
    return emit(relax.op.matmul(x, relax.const(RNG.standard_normal((8, 8)).astype("float32"))))


def test_products_that_become_integers():
    def body(emit, x):
        y = product(emit, x)
        shifted = emit(relax.op.add(emit(relax.op.reshape(y, (4, 16))), relax.const(1.0)))
        return emit(relax.op.astype(shifted, "int32"))

    assert exact(body, (8, 8)) == {"given", "lv"}


def test_products_that_stay_floats():
    def body(emit, x):
        y = product(emit, x)
        index = emit(relax.op.argmax(y, 1))
        return emit(relax.Tuple([y, emit(relax.op.astype(index, "int32"))]))

    assert exact(body, (8, 8)) == {"given"}


@NEEDS_HALF
@pytest.mark.parametrize("operator", ["MatMulInteger", "ConvInteger"])
def test_integers_are_exact_in_float16(tmp_path, operator):
    is_conv = operator == "ConvInteger"
    shape, of_weight = ((1, 64, 9, 9), (48, 64, 3, 3)) if is_conv else ((40, 256), (256, 96))
    w, x = RNG.integers(-127, 127, of_weight, "int8"), RNG.integers(0, 255, shape, "uint8")
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w", "zero"], ["y"])],
        "integers",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.uint8(128), "zero")],
    )
    path = tmp_path / "integers.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    (want,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    assert np.abs(want).max() > 1 << 16
    engine = tvm_sparse.compile(path, threads=2, precision="float16")
    np.testing.assert_array_equal(engine.run({"x": x})["y"], want)

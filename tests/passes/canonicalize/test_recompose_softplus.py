from __future__ import annotations

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax
from tvm.relax.op import abs as absolute
from tvm.relax.op import add, exp, log, maximum, negative
from tvm.relax.op.nn import relu, softplus

from tvm_sparse.frontends.onnx_importer import import_onnx
from tvm_sparse.passes.canonicalize.recompose_softplus import RecomposeSoftplus
from tvm_sparse.passes.ir import operators
from tvm_sparse.testing.models import dataflow, operators_of, run, write_onnx

SHAPE = (2, 40)


def number(value):
    return relax.const(value, "float32")


def logarithm(emit, x, one=1.0):
    power = emit(exp(emit(negative(emit(absolute(x))))))
    return emit(log(emit(add(number(one), power))))


def by_maximum(emit, x):
    return emit(add(emit(maximum(x, number(0.0))), logarithm(emit, x)))


def by_relu(emit, x):
    return emit(add(logarithm(emit, x), emit(relu(x))))


@pytest.mark.parametrize("body", [by_maximum, by_relu, lambda emit, x: emit(softplus(x))])
def test_every_spelling(body):
    mod = RecomposeSoftplus()(dataflow(body, SHAPE))
    expected = dataflow(lambda emit, x: emit(operators.softplus(x)), SHAPE)
    tvm.ir.assert_structural_equal(mod["main"], expected["main"])


@pytest.mark.parametrize(
    "body",
    [
        lambda emit, x: emit(softplus(x, beta=2.0)),
        lambda emit, x: emit(add(emit(relu(x)), logarithm(emit, x, one=2.0))),
        lambda emit, x: emit(add(emit(relu(emit(negative(x)))), logarithm(emit, x))),
        lambda emit, x: emit(add(emit(maximum(x, number(1.0))), logarithm(emit, x))),
    ],
)
def test_others_stay(body):
    before = dataflow(body, SHAPE)
    tvm.ir.assert_structural_equal(RecomposeSoftplus()(before), before)


def test_digits_of_very_negative_values(tmp_path):
    node = onnx.helper.make_node("Softplus", ["x"], ["y"])
    path = write_onnx(tmp_path / "softplus.onnx", [node], {"x": SHAPE}, ["y"], {})
    mod = import_onnx(path).mod
    assert operators_of(RecomposeSoftplus()(mod)) == ["tvm_sparse.softplus"]
    x = np.linspace(-80, 20, 80, dtype="float32").reshape(SHAPE)
    x[0, :2] = np.nan, -np.inf
    y = run(tvm.compile(mod, "llvm", relax_pipeline="tvm_sparse"), x)
    want = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x.astype("float64"))))
    np.testing.assert_allclose(y, want, rtol=1e-6, atol=0)

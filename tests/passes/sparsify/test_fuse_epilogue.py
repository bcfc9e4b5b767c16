from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.op import add
from tvm.relax.op.nn import gelu, relu

from tvm_sparse.passes.ir import operators as panel
from tvm_sparse.passes.sparsify.fuse_epilogue import FuseEpilogue
from tvm_sparse.testing.models import dataflow, operators_of

PANELS = (2, 3, 16)
WEIGHT = relax.const(np.ones((1, 3, 3), "float32"))
BIAS = np.arange(3, dtype="float32")


def linear(x):
    return panel.linear(x, WEIGHT, 3)


def assert_fuses(before, after, *shapes):
    mod = FuseEpilogue()(dataflow(before, *shapes))
    tvm.ir.assert_structural_equal(mod["main"], dataflow(after, *shapes)["main"])


def test_bias_residual_and_activation():
    def before(emit, x, other):
        y = emit(add(emit(linear(x)), relax.const(BIAS.reshape(3, 1))))
        return emit(gelu(emit(add(other, y))))

    def after(emit, x, other):
        y = panel.with_epilogue(linear(x), bias=relax.const(BIAS))
        return emit(panel.with_epilogue(y, residual=other, activation="gelu"))

    assert_fuses(before, after, PANELS, PANELS)


def test_residual_before_bias_keeps_the_order_of_arguments():
    def before(emit, x, other):
        y = emit(add(emit(linear(x)), other))
        return emit(add(relax.const(BIAS.reshape(3, 1)), y))

    def after(emit, x, other):
        y = panel.with_epilogue(linear(x), residual=other)
        y = panel.with_epilogue(y, bias=relax.const(BIAS))
        assert [a.ty.shape[0] for a in y.args] == [2, 1, 3, 2]
        return emit(y)

    assert_fuses(before, after, PANELS, PANELS)


def test_two_linear_layers_added():
    def before(emit, x):
        return emit(add(emit(linear(x)), emit(linear(x))))

    mod = FuseEpilogue()(dataflow(before, PANELS))
    assert operators_of(mod) == ["tvm_sparse.linear", "tvm_sparse.linear"]


def test_nothing_follows_an_activation():
    def body(emit, x):
        return emit(add(emit(relu(emit(linear(x)))), relax.const(BIAS.reshape(3, 1))))

    mod = FuseEpilogue()(dataflow(body, PANELS))
    assert operators_of(mod) == ["tvm_sparse.linear", "add"]


def test_a_result_with_another_reader_stays():
    def body(emit, x):
        y = emit(linear(x))
        return emit(relax.op.multiply(emit(relu(y)), y))

    before = dataflow(body, PANELS)
    tvm.ir.assert_structural_equal(FuseEpilogue()(before), before)


def test_a_result_that_is_returned_stays():
    def body(emit, x):
        y = emit(linear(x))
        return emit(relax.Tuple([y, emit(relu(y))]))

    before = dataflow(body, PANELS)
    tvm.ir.assert_structural_equal(FuseEpilogue()(before), before)


@pytest.mark.parametrize(
    ("body", "activation"),
    [
        (lambda x: relax.op.clip(x, 0, 6), "relu6"),
        (lambda x: relax.op.nn.leakyrelu(x, 0.25), "leaky_relu(0.25)"),
        (panel.hardswish, "hardswish"),
    ],
)
def test_other_activations(body, activation):
    def after(emit, x):
        return emit(panel.with_epilogue(linear(x), activation=activation))

    assert_fuses(lambda emit, x: emit(body(emit(linear(x)))), after, PANELS)


def test_other_limits_stay():
    def body(emit, x):
        return emit(relax.op.clip(emit(linear(x)), -1, 6))

    assert operators_of(FuseEpilogue()(dataflow(body, PANELS))) == ["tvm_sparse.linear", "clip"]

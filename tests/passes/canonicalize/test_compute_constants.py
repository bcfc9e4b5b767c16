from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.compute_constants import ComputeConstants
from tvm_sparse.testing.models import dataflow

OPS = relax.op
WEIGHT = np.arange(24, dtype="float32").reshape(2, 1, 12)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (lambda c: OPS.reshape(c, (1, 24, 1, 1)), WEIGHT.reshape(1, 24, 1, 1)),
        (lambda c: OPS.expand_dims(c, 0), WEIGHT[None]),
        (lambda c: OPS.squeeze(c, [1]), WEIGHT[:, 0]),
        (lambda c: OPS.flatten(c), WEIGHT.ravel()),
        (lambda c: OPS.permute_dims(c, [2, 0, 1]), WEIGHT.transpose(2, 0, 1)),
        (lambda c: OPS.permute_dims(c), WEIGHT.T),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_views_of_constants_are_constants(view, expected, dtype):
    def before(emit, x):
        return emit(OPS.add(x, emit(OPS.astype(emit(view(weight)), "float32"))))

    def after(emit, x):
        folded = relax.const(expected.astype(dtype))
        return emit(OPS.add(x, emit(OPS.astype(folded, "float32"))))

    weight = relax.const(WEIGHT.astype(dtype))
    expected_mod = dataflow(after, (1,))
    tvm.ir.assert_structural_equal(ComputeConstants()(dataflow(before, (1,))), expected_mod)


def test_views_of_views_are_constants():
    def before(emit, x):
        turned = emit(OPS.permute_dims(relax.const(WEIGHT)))
        return emit(OPS.add(x, emit(OPS.reshape(turned, (24,)))))

    def after(emit, x):
        return emit(OPS.add(x, relax.const(WEIGHT.T.reshape(24))))

    tvm.ir.assert_structural_equal(
        ComputeConstants()(dataflow(before, (24,))), dataflow(after, (24,))
    )


def test_views_of_other_values_stay():
    mod = dataflow(lambda emit, x: emit(OPS.reshape(x, (6,))), (2, 3))
    tvm.ir.assert_structural_equal(ComputeConstants()(mod), mod)


ODD = np.float32([np.nan, np.inf, -np.inf, 0, -0.0, 1e-41, 3e38, -2.5])


@pytest.mark.parametrize("operator", [OPS.add, OPS.subtract, OPS.multiply, OPS.divide, OPS.sqrt])
def test_arithmetic_of_constants_is_what_tvm_computes(operator):
    def network(emit, x):
        constants = [relax.const(a) for a in (ODD[:, None], ODD)][: 1 + (operator != OPS.sqrt)]
        return emit(OPS.add(x, emit(operator(*constants))))

    before = dataflow(network, (8, 8))
    ours, theirs = (
        added_constant(fold(before))
        for fold in (ComputeConstants(), relax.transform.FoldConstant())
    )
    is_number = ~np.isnan(ours)
    np.testing.assert_array_equal(is_number, ~np.isnan(theirs))
    bits = [result[is_number].view("int32") for result in (ours, theirs)]
    np.testing.assert_array_equal(*bits)


def test_choices_of_constants_are_what_tvm_computes():
    def network(emit, x):
        constant = relax.const(ODD)
        limit = emit(OPS.where(emit(OPS.isnan(constant)), relax.const(np.float32(7)), constant))
        return emit(OPS.add(x, limit))

    before = dataflow(network, (8,))
    ours = added_constant(ComputeConstants()(before))
    theirs = added_constant(relax.transform.FoldConstant()(before))
    np.testing.assert_array_equal(ours.view("int32"), theirs.view("int32"))
    assert ours.flat[0] == 7


def added_constant(mod: tvm.IRModule) -> np.ndarray:
    """Return what the network adds to its input."""
    calls = [binding.value for binding in mod["main"].body.blocks[0].bindings]
    (added,) = (
        value.args[1]
        for value in calls
        if isinstance(value, relax.Call) and value.args[0].same_as(mod["main"].params[0])
    )
    return np.broadcast_to(added.value.numpy(), (8, 8))


@pytest.mark.parametrize("dtype", ["float16", "int32"])
def test_arithmetic_of_other_types_stays(dtype):
    constant = relax.const(np.arange(3).astype(dtype))

    def network(emit, x):
        total = emit(OPS.add(constant, constant))
        return emit(OPS.add(x, emit(OPS.astype(total, "float32"))))

    mod = dataflow(network, (3,))
    tvm.ir.assert_structural_equal(ComputeConstants()(mod), mod)

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.check_indices import CheckIndices
from tvm_sparse.passes.canonicalize.compute_indices import ComputeIndices
from tvm_sparse.testing.models import dataflow, operators_of

OPS = relax.op


def constant(array: object, dtype: str = "int64") -> relax.Expr:
    return relax.const(np.array(array, dtype), dtype)


NUMBERS = constant([[-7, 0, 3], [2**62, -(2**62), 5]])
MASK = constant([[True, False, False], [True, True, False]], "bool")


def result(mod: tvm.IRModule) -> np.ndarray:
    """Return the constant that a network is."""
    body = relax.transform.CanonicalizeBindings()(mod)["main"].body
    bindings = [binding.value for block in body.blocks for binding in block.bindings]
    (constant,) = bindings or [body.body]
    return constant.value.numpy()


@pytest.mark.parametrize(
    "build",
    [
        lambda _x: OPS.add(NUMBERS, NUMBERS),
        lambda _x: OPS.subtract(NUMBERS, constant([1, 2, 3])),
        lambda _x: OPS.multiply(NUMBERS, constant(4)),
        lambda _x: OPS.negative(NUMBERS),
        lambda _x: OPS.minimum(NUMBERS, constant(0)),
        lambda _x: OPS.maximum(NUMBERS, constant(0)),
        lambda _x: OPS.less(NUMBERS, constant(3)),
        lambda _x: OPS.less_equal(NUMBERS, constant(3)),
        lambda _x: OPS.greater(NUMBERS, constant(3)),
        lambda _x: OPS.greater_equal(NUMBERS, constant(3)),
        lambda _x: OPS.equal(NUMBERS, constant(3)),
        lambda _x: OPS.not_equal(NUMBERS, constant(3)),
        lambda _x: OPS.where(MASK, NUMBERS, constant(9)),
        lambda _x: OPS.logical_not(MASK),
        lambda _x: OPS.logical_and(MASK, constant([True, False, True], "bool")),
        lambda _x: OPS.logical_or(MASK, constant([True, False, True], "bool")),
        lambda _x: OPS.astype(NUMBERS, "int32"),
        lambda _x: OPS.permute_dims(OPS.reshape(NUMBERS, (3, 2)), [1, 0]),
        lambda _x: OPS.broadcast_to(OPS.expand_dims(constant([1, 2, 3]), 0), (2, 3)),
        lambda _x: OPS.take(NUMBERS, constant([1, 0]), 0),
        lambda _x: OPS.take(NUMBERS, constant([-1, 5]), 0, "wrap"),
        lambda _x: OPS.take(NUMBERS, constant([-1, 5]), 0, "clip"),
        lambda _x: OPS.concat([NUMBERS, constant([[1], [0]])], 1),
        lambda _x: OPS.strided_slice(NUMBERS, [0, 1], [-1, 9], [-9, -9], [-1, -2]),
        lambda x: OPS.shape_to_tensor(OPS.shape_of(x)),
        lambda x: OPS.take(OPS.shape_to_tensor(OPS.shape_of(x)), constant(1), 0, "wrap"),
    ],
)
def test_integers_are_what_tvm_computes(build):
    before = dataflow(lambda emit, x: emit(build(x)), (2, 3))
    ours, theirs = ComputeIndices()(before), relax.transform.FoldConstant()(before)
    assert not operators_of(ours)
    assert result(ours).dtype == result(theirs).dtype
    np.testing.assert_array_equal(result(ours), result(theirs))


@pytest.mark.parametrize(
    "build",
    [
        lambda x: OPS.shape_of(x),
        lambda _x: OPS.take(NUMBERS, constant(2), 0),
        lambda _x: OPS.take(NUMBERS, constant(-1), 0),
        lambda _x: OPS.floor_divide(NUMBERS, constant(0)),
        lambda _x: OPS.add(relax.const(np.float32([1, 2])), relax.const(np.float32(1))),
        lambda x: OPS.less(x, x),
    ],
)
def test_other_calls_stay(build):
    mod = dataflow(lambda emit, x: emit(build(x)), (2, 3))
    tvm.ir.assert_structural_equal(ComputeIndices()(mod), mod)


def test_the_size_of_an_open_axis_stays():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((tvm.tirx.Var("n", "int64"), 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            sizes = builder.emit(OPS.shape_to_tensor(builder.emit(OPS.shape_of(x))))
            out = builder.emit_output(OPS.take(sizes, constant(1), 0, "wrap"))
        builder.emit_func_output(out)
    mod = builder.get()
    tvm.ir.assert_structural_equal(ComputeIndices()(mod), mod)


def test_an_index_that_is_computed_of_constants_is_checked_while_compiling():
    """Where(Less(i, 0), i + Gather(Shape(x), 0), i), as exporters count back."""

    def row(index):
        def network(emit, x):
            size = OPS.take(OPS.shape_to_tensor(OPS.shape_of(x)), constant(0), 0, "wrap")
            is_negative = OPS.less(constant(index), constant(0))
            place = OPS.where(is_negative, OPS.add(constant(index), size), constant(index))
            return emit(OPS.take(x, place, 0))

        passes = [relax.transform.CanonicalizeBindings(), ComputeIndices(), CheckIndices()]
        return tvm.transform.Sequential(passes)(dataflow(network, (2, 3)))

    assert operators_of(row(-1)) == ["take"]
    with pytest.raises(Exception, match="an index is out of range"):
        row(-3)

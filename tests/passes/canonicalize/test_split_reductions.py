import numpy as np
import pytest
import tvm
from tvm import relax

import tvm_sparse
from tvm_sparse.passes.canonicalize.split_reductions import LEAST_ELEMENTS, SplitReductions
from tvm_sparse.testing.models import dataflow

SHAPE = (3, 64, 112)


def test_a_whole_tensor_is_reduced_in_two_steps():
    def after(emit, x):
        table = emit(relax.op.reshape(x, (12, 1792)))
        value = emit(relax.op.max(emit(relax.op.max(table, 0)), 0))
        return emit(relax.op.reshape(value, (1, 1, 1)))

    before = dataflow(lambda emit, x: emit(relax.op.max(x, keepdims=True)), SHAPE)
    mod = SplitReductions()(before)
    tvm.ir.assert_structural_equal(mod["main"], dataflow(after, SHAPE)["main"])


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((LEAST_ELEMENTS - 256,), None),  # few elements
        (SHAPE, 2),  # many results
        ((65537,), None),  # a prime number of elements
    ],
)
def test_other_reductions_stay(shape, axis):
    before = dataflow(lambda emit, x: emit(relax.op.sum(x, axis)), shape)
    tvm.ir.assert_structural_equal(SplitReductions()(before)["main"], before["main"])


@pytest.mark.parametrize("has_nan", [False, True])
@pytest.mark.parametrize("name", ["max", "min", "sum", "mean"])
def test_numbers(name, has_nan):
    mod = dataflow(lambda emit, x: emit(getattr(relax.op, name)(x)), SHAPE)
    x = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    if has_nan:
        x[1, 2, 3] = np.nan
    (y,) = tvm_sparse.compile(mod, threads=2).run([x]).values()
    np.testing.assert_allclose(y, getattr(x.astype("float64"), name)(), rtol=1e-5, atol=1e-4)

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.op import matmul, reshape

from tvm_sparse.passes.unflatten_linear import UnflattenLinear
from tvm_sparse.testing import dataflow

WEIGHT = relax.const(np.ones((6, 5), "float32"))


def flat(emit, x):
    return emit(matmul(emit(reshape(x, (8, 6))), WEIGHT))


@pytest.mark.parametrize("shape", [(2, 4, 6), (2, 4, 3, 2)])
def test_batched_tokens_stay_batched(shape):
    def after(emit, x):
        batched = x if len(shape) == 3 else emit(reshape(x, (2, 4, 6)))
        return emit(reshape(emit(matmul(batched, WEIGHT)), (8, 5)))

    mod = UnflattenLinear()(dataflow(flat, shape))
    tvm.ir.assert_structural_equal(mod["main"], dataflow(after, shape)["main"])


@pytest.mark.parametrize("shape", [(48,), (8, 3, 2), (2, 24), (2, 2, 12)])
def test_other_reshapes_stay(shape):
    before = dataflow(flat, shape)
    tvm.ir.assert_structural_equal(UnflattenLinear()(before), before)

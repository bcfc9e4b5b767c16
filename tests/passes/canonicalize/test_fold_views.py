from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.fold_views import FoldViews
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
    tvm.ir.assert_structural_equal(FoldViews()(dataflow(before, (1,))), expected_mod)


def test_views_of_views_are_constants():
    def before(emit, x):
        turned = emit(OPS.permute_dims(relax.const(WEIGHT)))
        return emit(OPS.add(x, emit(OPS.reshape(turned, (24,)))))

    def after(emit, x):
        return emit(OPS.add(x, relax.const(WEIGHT.T.reshape(24))))

    tvm.ir.assert_structural_equal(FoldViews()(dataflow(before, (24,))), dataflow(after, (24,)))


def test_views_of_other_values_stay():
    mod = dataflow(lambda emit, x: emit(OPS.reshape(x, (6,))), (2, 3))
    tvm.ir.assert_structural_equal(FoldViews()(mod), mod)

"""Results that are reshaped become views, and those that are a part of something do not."""

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.passes.lower.view_results import ViewResults

OPS = relax.op
SHAPE = (2, 3, 8)


def module(view):
    """Return ``view(exp(x))``, whose kernels are not fused."""
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(SHAPE, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(view(builder.emit(OPS.exp(x))))
        builder.emit_func_output(result)
    return builder.get()


def before_and_after(view):
    mod = relax.transform.LegalizeOps()(module(view))
    return mod, ViewResults()(mod)


@pytest.mark.parametrize("shape", [(6, 8), (2, 1, 24)])
def test_reshapes_are_views(shape):
    _, mod = before_and_after(lambda y: OPS.reshape(y, shape))
    assert "R.reshape(" in mod.script()


PARTS = {
    "first rows": lambda y: OPS.strided_slice(y, [0], [0], [1]),
    "one of several rows": lambda y: OPS.strided_slice(y, [0], [0], [2], [3]),
    "first rows of one image": lambda y: OPS.strided_slice(y, [0, 1], [0, 0], [1, 2]),
    "last rows": lambda y: OPS.strided_slice(y, [0], [1], [2]),
    "first columns": lambda y: OPS.strided_slice(y, [2], [0], [4]),
    "first and again": lambda y: OPS.take(y, relax.const(np.int64([0])), 0),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_are_copies(name):
    before, after = before_and_after(PARTS[name])
    tvm.ir.assert_structural_equal(after, before)

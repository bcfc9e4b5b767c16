from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.cpu.profile import native
from tvm_sparse.passes.canonicalize.keep_zeros import KeepZeros
from tvm_sparse.testing.models import dataflow, run

OPS = relax.op
X = np.resize(np.float32([np.nan, np.inf, -np.inf, 0, 1, -3]), (2, 20))


def test_only_zeros_without_axes_change():
    def before(emit, x):
        x = emit(OPS.multiply(x, relax.const(0.0)))
        return emit(OPS.divide(emit(OPS.multiply(x, relax.const(2.0))), relax.const([0.0])))

    def after(emit, x):
        x = emit(OPS.multiply(x, relax.const(np.zeros(1, "float32"))))
        return emit(OPS.divide(emit(OPS.multiply(x, relax.const(2.0))), relax.const([0.0])))

    tvm.ir.assert_structural_equal(KeepZeros()(dataflow(before, (2, 3))), dataflow(after, (2, 3)))


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize(
    ("operator", "reference"),
    [
        (lambda x, zero: OPS.multiply(x, zero), lambda x, zero: x * zero),
        (lambda x, zero: OPS.multiply(zero, x), lambda x, zero: x * zero),
        (lambda x, zero: OPS.divide(x, zero), lambda x, zero: x / zero),
        (lambda x, zero: OPS.divide(zero, x), lambda x, zero: zero / x),
    ],
)
def test_numbers(operator, reference, zero):
    mod = dataflow(lambda emit, x: emit(operator(x, relax.const(zero, "float32"))), X.shape)
    executable = tvm.compile(mod, native().to_target(), relax_pipeline="tvm_sparse")
    with np.errstate(all="ignore"):
        want = reference(X, np.float32(zero))
    np.testing.assert_array_equal(run(executable, X), want)

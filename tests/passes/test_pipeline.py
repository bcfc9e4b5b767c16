from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.cpu.profile import native
from tvm_sparse.passes.pipeline import lower
from tvm_sparse.testing.models import dataflow, operators_of, run


def body(emit, x):
    """Sum the rows of a matrix that lies in memory as other axes do."""
    matrix = emit(relax.op.reshape(x, (60, 7)))
    return emit(relax.op.sum(matrix, 1))


def test_a_reshape_between_kernels_copies_nothing():
    with native().to_target():
        mod = tvm.transform.Sequential(lower(native()))(dataflow(body, (3, 4, 35)))
    assert "reshape" in operators_of(mod)
    assert not any("reshape" in var.name_hint for var in mod.get_global_vars())


def test_a_result_may_be_a_view_of_what_a_kernel_computed():
    def reshaped(emit, x):
        return emit(relax.op.reshape(emit(relax.op.sum(x, 1)), (5, 21)))

    x = np.random.default_rng(0).standard_normal((3, 4, 35)).astype("float32")
    mod = dataflow(reshaped, x.shape)
    with native().to_target():
        lowered = tvm.transform.Sequential(lower(native()))(mod)
    assert operators_of(lowered) == ["call_tir", "reshape"]
    executable = tvm.compile(mod, native().to_target(), relax_pipeline="tvm_sparse")
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    first, second = (main(tvm.runtime.tensor(factor * x)) for factor in (1, 2))
    np.testing.assert_allclose(first.numpy(), x.sum(1).reshape(5, 21), rtol=1e-5)
    np.testing.assert_allclose(second.numpy(), 2 * x.sum(1).reshape(5, 21), rtol=1e-5)


def test_a_result_is_no_view_of_an_input():
    mod = dataflow(lambda emit, x: emit(relax.op.reshape(x, (3, 8))), (2, 12))
    with native().to_target():
        lowered = tvm.transform.Sequential(lower(native()))(mod)
    assert operators_of(lowered) == ["call_tir"]


def test_numbers():
    x = np.random.default_rng(0).standard_normal((3, 4, 35)).astype("float32")
    mod = dataflow(body, x.shape)
    executable = tvm.compile(mod, native().to_target(), relax_pipeline="tvm_sparse")
    np.testing.assert_allclose(run(executable, x), x.reshape(60, 7).sum(1), rtol=1e-5)

import dataclasses

import numpy as np
import pytest
from tvm import relax

from tvm_sparse.cpu.profile import profile
from tvm_sparse.dtypes import DType
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.sparsify.pack_dense_weights import PackDenseWeights
from tvm_sparse.testing.models import dataflow
from tvm_sparse.tilings.linear import LinearTiling


@pytest.mark.parametrize(("scale", "dtype"), [(1, "float16"), (1e6, "float32")])
@pytest.mark.parametrize(("rows", "at"), [(1, 1), (40, 0)])
def test_weights_beyond_half_precision_stay(rows, at, scale, dtype):
    """Panels (operand 0) and, of one row, the stored weight (operand 1) hold the weight's range."""
    cpu = dataclasses.replace(profile("sapphirerapids-amx"), activations=DType.FLOAT16)
    weight = np.random.default_rng(0).standard_normal((64, 48)).astype("float32") * scale
    mod = dataflow(lambda emit, x: emit(relax.op.matmul(x, relax.const(weight))), (rows, 64))
    (call,) = (
        binding.value
        for block in PackDenseWeights(cpu)(mod)["main"].body.blocks
        for binding in block.bindings
        if is_call_to(binding.value, "relax.tvm_sparse.linear", "relax.tvm_sparse.row_linear")
    )
    assert str(call.args[at].ty.dtype) == dtype


def kernels(mod, *arguments):
    """Return the operators on panels that `PackDenseWeights` makes of a module."""
    blocks = PackDenseWeights(*arguments)(mod)["main"].body.blocks
    values = [binding.value for block in blocks for binding in block.bindings]
    calls = [value for value in values if isinstance(value, relax.Call)]
    names = [call.op.name.removeprefix("relax.tvm_sparse.") for call in calls]
    return [name for name in names if "panels" not in name]


@pytest.mark.parametrize(("size", "kernel", "name"), [
    (7, 3, "flat_conv2d"), (20, 3, "flat_conv2d"), (32, 3, "conv2d"),
    (7, 1, "flat_conv2d"), (20, 1, "linear"), (32, 1, "linear"),
])  # fmt: skip
def test_rows_that_fill_no_whole_vectors(size, kernel, name):
    rng = np.random.default_rng(0)
    weight = relax.const(rng.standard_normal((256, 256, kernel, kernel)).astype("float32"))
    padding = kernel // 2
    mod = dataflow(
        lambda emit, x: emit(relax.op.nn.conv2d(x, weight, padding=padding)), (1, 256, size, size)
    )
    cpu = dataclasses.replace(profile("skylake-avx512"), cores=2)
    assert kernels(mod, cpu) == [name]


def test_a_measured_linear_kernel_is_taken():
    weight = relax.const(np.ones((64, 64, 1, 1), "float32"))
    mod = dataflow(lambda emit, x: emit(relax.op.nn.conv2d(x, weight)), (1, 64, 7, 7))
    cpu = profile("skylake-avx512")
    assert kernels(mod, cpu, lambda layer: LinearTiling(8, 2)) == ["linear"]

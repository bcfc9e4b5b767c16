import dataclasses

import numpy as np
import pytest
from tvm import relax

from tvm_sparse.cpu.profile import profile
from tvm_sparse.dtypes import DType
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.sparsify.pack_dense_weights import PackDenseWeights
from tvm_sparse.testing.models import dataflow


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

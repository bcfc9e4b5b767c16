from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from tvm_sparse.cpu.profile import profile
from tvm_sparse.passes.sparsify.constant_layers import match_conv2d
from tvm_sparse.passes.sparsify.refusals import refusal
from tvm_sparse.sizes.conv2d import WIDEST_KERNEL
from tvm_sparse.testing.models import dataflow


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        ((1, WIDEST_KERNEL), ""),
        ((1, WIDEST_KERNEL + 1), "its kernel is 65 taps wide, and ours take up to 64"),
        ((WIDEST_KERNEL + 1, 1), ""),
    ],
)
def test_kernels_too_wide_to_write_out(kernel, why):
    weight = relax.const(np.ones((2, 3, *kernel), "float32"))
    mod = dataflow(lambda emit, x: emit(relax.op.nn.conv2d(x, weight)), (1, 3, 80, 300))
    call = mod["main"].body.blocks[0].bindings[0].value
    assert refusal(call) == why
    assert (match_conv2d(call, profile("haswell")) is None) == bool(why)

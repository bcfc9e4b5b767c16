from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import native
from tvm_sparse.cpu.row_dots import row_dots
from tvm_sparse.formats.blocks import BlockCodes
from tvm_sparse.formats.groups import GROUP, GroupedBlocks
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.block_row_linear import block_row_linear
from tvm_sparse.schedules.operators.packed_experts import packed_experts
from tvm_sparse.sizes.block_linear import BlockLinear
from tvm_sparse.sizes.expert_linear import ExpertLinear
from tvm_sparse.testing.kernels import run_kernel
from tvm_sparse.tilings.block_rows import BlockRowTiling


@pytest.mark.skipif(row_dots(native()) is None, reason="this CPU has no products of bytes")
@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 12),
    experts=st.integers(1, 5),
    n=st.integers(1, 40),
    k=st.integers(1, 70),
    block=st.sampled_from([8, 32]),
    height=st.integers(1, 4),
    jobs=st.integers(1, 3),
)
def test_any_size(rows, experts, n, k, block, height, jobs):
    rng = np.random.default_rng(rows)
    shape = experts * n, -(-k // block)
    codes = rng.integers(0, 16, (experts * n, k)).astype("uint8")
    scales = rng.uniform(0.5, 1, shape).astype("float32")
    weight = BlockCodes(codes, scales, np.full(shape, 8, "uint8"), 4, block)
    tall = weight.stacked(experts, GROUP)
    packed = GroupedBlocks.pack(tall, "float32")
    problem = ExpertLinear(rows, experts, n, k)
    one = BlockLinear(height, tall.shape[0], k, 4, block)

    def frame(name, one, product, jobs, _epilogue):
        return packed_experts(name, problem, product, one.rows, jobs)

    make = functools.partial(block_row_linear, frame=frame)
    kernel = make(one, BlockRowTiling(height, jobs), Epilogue(), row_dots(native()))
    x = rng.standard_normal((rows, k)).astype("float32")
    of = rng.integers(0, experts, rows)
    y = run_kernel(kernel, [x, of.astype("int64"), packed.codes, packed.scales], (rows, n))
    dense = weight.to_dense().reshape(experts, n, k)
    expected = np.einsum("rk,rnk->rn", x.astype("float64"), dense[of])
    np.testing.assert_allclose(y, expected, atol=2e-3 * max(1, np.abs(expected).max()))

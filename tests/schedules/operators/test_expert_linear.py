from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import native
from tvm_sparse.formats.rows import pack_rows, tile_channels
from tvm_sparse.formats.windows import WINDOWS, WindowSparse
from tvm_sparse.schedules.operators.expert_linear import expert_linear, sparse_expert_linear
from tvm_sparse.sizes.expert_linear import ExpertLinear
from tvm_sparse.testing.kernels import run_kernel
from tvm_sparse.testing.models import pruned
from tvm_sparse.tilings.row_linear import RowTiling, SparseRowTiling, permutes_windows

SIZES = {
    "rows": st.integers(1, 20),
    "experts": st.integers(1, 6),
    "vectors": st.integers(1, 4),
    "tile": st.integers(1, 5),
    "jobs": st.integers(1, 3),
}


def check(weight, rows, kernel, arrays, seed=0):
    """Compare a kernel with NumPy in double precision; an expert may get all rows, or none."""
    experts, n, k = weight.shape
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, k)).astype("float32")
    of = rng.integers(0, experts, rows) if seed % 3 else np.full(rows, seed % experts)
    expected = np.einsum("rk,rnk->rn", x.astype("float64"), weight[of])
    y = run_kernel(kernel, [x, of.astype("int64"), *arrays], (rows, n))
    np.testing.assert_allclose(y, expected, atol=1e-5 * max(1, np.abs(expected).max()))


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 90), k=st.integers(1, 70), width=st.sampled_from([1, 4, 8]), **SIZES)
def test_dense_of_any_size(n, k, width, rows, experts, vectors, tile, jobs):
    width = width if width <= n else 1
    tiling = RowTiling(width, min(vectors, n // width), tile, jobs)
    weight = pruned(np.random.default_rng(n), (experts, n, k), 1.0)
    packed = np.concatenate([pack_rows(matrix, tiling.units) for matrix in weight])
    kernel = expert_linear(ExpertLinear(rows, experts, n, k), tiling)
    check(weight, rows, kernel, [packed], seed=n)


@pytest.mark.skipif(not permutes_windows(native()), reason="this CPU has no AVX2")
@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(16, 90),
    k=st.integers(max(WINDOWS.values()), 120),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    **SIZES,
)
def test_sparse_of_any_size(n, k, density, rows, experts, vectors, tile, jobs):
    width = native().vector_lanes()
    tiling = SparseRowTiling(width, min(vectors, n // width), tile, jobs)
    weight = pruned(np.random.default_rng(n), (experts, n, k), density)
    first = (np.arange(experts) * n)[:, None, None]
    tiles = (first + tile_channels(n, tiling.units)).reshape(-1, tiling.vectors, width)
    packed = WindowSparse.from_dense(weight.reshape(1, -1, k), tiles)
    arrays = [packed.starts, packed.windows, packed.places, packed.values]
    kernel = sparse_expert_linear(ExpertLinear(rows, experts, n, k), tiling)
    check(weight, rows, kernel, arrays, seed=n)


def test_numbers_out_of_range_are_clipped():
    weight = pruned(np.random.default_rng(0), (3, 8, 5), 1.0)
    tiling = RowTiling(8, 1, 2, 1)
    kernel = expert_linear(ExpertLinear(3, 3, 8, 5), tiling)
    x = np.random.default_rng(1).standard_normal((3, 5)).astype("float32")
    packed = np.concatenate([pack_rows(matrix, 8) for matrix in weight])
    y = run_kernel(kernel, [x, np.array([-7, 1, 1 << 40]), packed], (3, 8))
    expected = np.einsum("rk,rnk->rn", x, weight[[0, 1, 2]])
    np.testing.assert_allclose(y, expected, atol=1e-5)

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import FLOATS
from tvm_sparse.formats.rows import pack_rows, tile_channels
from tvm_sparse.formats.windows import WINDOWS, WindowSparse
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.row_linear import row_linear, sparse_row_linear
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.testing.kernels import assembly, run_kernel
from tvm_sparse.testing.models import pruned
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.row_linear import (
    SPARSE_ROW_LINEAR_FAMILY,
    RowTiling,
    SparseRowTiling,
    permutes_windows,
)

EPILOGUES = [Epilogue(), Epilogue(bias=True, residual=True, activation="relu"), Epilogue(True)]
TARGETS = [
    pytest.param(name, marks=pytest.mark.skipif(not able, reason=f"this CPU has no {unit}"))
    for name, unit, able in (
        ("haswell", "AVX2", permutes_windows(native())),
        ("skylake-avx512", "AVX-512", native().vector_lanes() == 16),
    )
]


def check(weight, rows, kernel, arrays, epilogue, cpu=None):
    """Compare a kernel with NumPy in double precision."""
    n, k = weight.shape
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, k)).astype("float32")
    expected = x.astype("float64") @ weight.T
    inputs = [x, *arrays]
    if epilogue.bias:
        inputs.append(rng.standard_normal(n).astype("float32"))
        expected += inputs[-1]
    if epilogue.residual:
        inputs.append(rng.standard_normal((rows, n)).astype("float32"))
        expected += inputs[-1]
    if epilogue.activation == "relu":
        expected = np.maximum(expected, 0)
    y = run_kernel(kernel, inputs, (rows, n), cpu)
    np.testing.assert_allclose(y, expected, atol=1e-5 * max(1, np.abs(expected).max()))


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 100),
    k=st.integers(1, 90),
    rows=st.integers(1, 7),
    width=st.sampled_from([1, 4, 16]),
    vectors=st.integers(1, 4),
    tile=st.integers(1, 4),
    jobs=st.integers(1, 3),
    epilogue=st.sampled_from(EPILOGUES),
    stored=st.sampled_from(FLOATS),
)
def test_dense_of_any_size(n, k, rows, width, vectors, tile, jobs, epilogue, stored):
    width = width if width <= n else 1
    tiling = RowTiling(width, min(vectors, n // width), tile, jobs)
    weight = pruned(np.random.default_rng(n), (n, k), 1.0).astype(stored).astype("float32")
    kernel = row_linear(Linear(rows, 1, n, k, stored=stored), tiling, epilogue)
    check(weight, rows, kernel, [pack_rows(weight, tiling.units).astype(stored)], epilogue)


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(16, 100),
    k=st.integers(max(WINDOWS.values()), 200),
    density=st.sampled_from([0.0, 0.02, 0.2, 0.7, 1.0]),
    rows=st.integers(1, 7),
    vectors=st.integers(1, 4),
    tile=st.integers(1, 4),
    jobs=st.integers(1, 3),
    epilogue=st.sampled_from(EPILOGUES),
)
def test_sparse_of_any_size(target, n, k, density, rows, vectors, tile, jobs, epilogue):
    cpu = profile(target)
    width = cpu.vector_lanes()
    tiling = SparseRowTiling(width, min(vectors, n // width), tile, jobs)
    weight = pruned(np.random.default_rng(n), (n, k), density)
    tiles = tile_channels(n, tiling.units).reshape(-1, tiling.vectors, width)
    packed = WindowSparse.from_dense(weight[None], tiles)
    arrays = [packed.starts, packed.windows, packed.places, packed.values]
    kernel = sparse_row_linear(Linear(rows, 1, n, k), tiling, epilogue)
    check(weight, rows, kernel, arrays, epilogue, cpu)


@pytest.mark.parametrize(
    ("name", "rows"), [("skylake-avx512", 1), ("skylake-avx512", 6), ("haswell", 1), ("haswell", 2)]
)
def test_sums_stay_in_registers(name, rows):
    """The loop over the steps of a sparse weight stores nothing."""
    cpu = profile(name)
    layer = Layer(Linear(rows, 1, 256, 512), 0.1)
    tiling = SPARSE_ROW_LINEAR_FAMILY.default(layer, cpu)
    kernel = sparse_row_linear(layer.problem, tiling, Epilogue())
    blocks = re.split(r"^\.LBB\w+:", assembly(kernel, cpu), flags=re.MULTILINE)
    loops = [
        found for block in blocks if (found := re.findall(r"\bvperm(?:[ti]2ps|ps|d)\b", block))
    ]
    assert loops and all(len(found) % (tiling.vectors * rows) == 0 for found in loops)
    spilled = r"vmov[ua]ps\s+%[yz]mm\d+, -?\d*\(%rsp\)"
    assert not any(re.search(spilled, block) for block in blocks if "vperm" in block)

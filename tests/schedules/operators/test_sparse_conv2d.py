import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvm_mca import estimate, inner_loop

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import DType
from tvm_sparse.errors import ToolError
from tvm_sparse.formats.sparse import PackedSparse, SparseConvTiling
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.sparse_conv2d import sparse_conv2d
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.testing.images import (
    assert_near,
    conv2d_problems,
    conv2d_reference,
    image_panels,
    panel_image,
    rounded,
)
from tvm_sparse.testing.kernels import assembly, run_kernel
from tvm_sparse.testing.models import needs_tool, pruned
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_conv2d import SPARSE_CONV2D_FAMILY

FULL = Epilogue(bias=True, residual=True, activation="relu")


def check(problem, tiling, density, epilogue, cpu):
    """Compare the kernel with NumPy in double precision; no lane may hold a NaN afterwards."""
    rng = np.random.default_rng(0)
    n, rows = problem.out_channels, problem.batch * problem.out_height
    dtype = problem.dtype
    x = rng.standard_normal((problem.batch, problem.channels, problem.height, problem.width))
    x = rounded(x, dtype)
    weight = pruned(rng, (n, problem.channels, *problem.kernel), density)
    weight = rounded(weight, dtype).astype("float32")
    packed = PackedSparse.from_conv2d(weight, problem, tiling)
    expected = conv2d_reference(x, weight, problem)
    inputs = [
        image_panels(x, problem.lanes_in, junk=7),
        *(packed.indptr, packed.channels, packed.offsets, packed.values),
    ]
    if epilogue.bias:
        inputs.append(rounded(rng.standard_normal(n), dtype))
        expected += inputs[-1][:, None, None]
    if epilogue.residual:
        residual = rounded(rng.standard_normal(expected.shape), dtype)
        inputs.append(image_panels(residual, problem.lanes_out, junk=7))
        expected += residual
    if epilogue.activation == "relu":
        expected = np.maximum(expected, 0)
    kernel = sparse_conv2d(problem, tiling, epilogue, cpu)
    inputs = [a.astype(dtype) if a.dtype.kind == "f" else a for a in inputs]
    y = run_kernel(kernel, inputs, (rows, n, problem.lanes_out), cpu)
    assert np.isfinite(y).all()
    result = panel_image(y, expected.shape)
    assert_near(result, expected, dtype)


@settings(max_examples=25, deadline=None)
@given(
    problem=conv2d_problems(native()),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    group=st.sampled_from([1, 3, 4]),
    k_block=st.sampled_from([2, 5, 100]),
    split=st.booleans(),
    rows=st.integers(1, 3),
    tiles=st.integers(1, 2),
    shifted=st.booleans(),
    vectors=st.integers(1, 3),
    epilogue=st.sampled_from([Epilogue(), FULL, Epilogue(bias=True), Epilogue(residual=True)]),
    name=st.sampled_from(["native", "haswell"]),
)
def test_any_convolution(
    problem, density, group, k_block, split, rows, tiles, shifted, vectors, epilogue, name
):
    cpu = profile(name)
    if split:
        problem = replace(problem, out_channels=2 * problem.out_channels)
    width = cpu.vector_width(problem.lanes_out)
    tiling = SparseConvTiling(
        group, k_block, 1 + split, 16, rows, width=width, row_block=rows * tiles,
        shifted=shifted, vectors=vectors,
    )  # fmt: skip
    check(problem, tiling, density, epilogue, cpu)


@settings(max_examples=15, deadline=None)
@given(
    problem=conv2d_problems(native(), dtype=DType.FLOAT16),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    group=st.sampled_from([1, 4, 7]),
    k_block=st.sampled_from([2, 5, 100]),
    rows=st.integers(1, 3),
    shifted=st.booleans(),
    epilogue=st.sampled_from([Epilogue(), Epilogue(bias=True, residual=True)]),
)
def test_any_convolution_in_half_precision(
    problem, density, group, k_block, rows, shifted, epilogue
):
    cpu = native()
    width = cpu.vector_width(problem.lanes_out, problem.dtype)
    sizes = {"rows": rows, "width": width, "row_block": rows, "shifted": shifted}
    check(problem, SparseConvTiling(group, k_block, **sizes), density, epilogue, cpu)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_wide_rows_are_gathered_and_computed_in_pieces(stride, shifted):
    cpu = native()
    problem = Conv2d(
        *(1, 3, 5, 300, 6, (3, 3), (1, stride), (1, 1, 1, 1)),
        lanes_in=cpu.image_lanes(300),
        lanes_out=cpu.image_lanes((300 - 1) // stride + 1),
    )
    tiling = SparseConvTiling(4, 2, width=8, row_block=2, shifted=shifted)
    check(problem, tiling, 0.5, FULL, cpu)


def test_vectors_without_columns_are_not_computed_but_finite():
    problem = Conv2d(1, 4, 6, 40, 5, (3, 3), padding=(1, 1, 1, 1), lanes_in=48, lanes_out=48)
    check(problem, SparseConvTiling(2, 4, width=8), 0.5, FULL, native())


def test_windows_of_less_than_a_kilobyte_keep_their_memory():
    # Buffers that small lie on the stack, where TVM's storage rewriting may merge them.
    problem = Conv2d(1, 8, 7, 7, 4, (1, 1), (2, 2), lanes_in=8, lanes_out=8)
    check(problem, SparseConvTiling(4, 8), 1.0, Epilogue(), native())


def test_grouped_convolutions_are_refused():
    problem = Conv2d(1, 8, 7, 7, 4, (1, 1), groups=2, lanes_in=8, lanes_out=8)
    with pytest.raises(ValueError, match="one group"):
        sparse_conv2d(problem, SparseConvTiling(4, 8), Epilogue(), native())


def test_far_offsets_are_refused():
    problem = Conv2d(1, 128, 120, 120, 4, (9, 9), lanes_in=128, lanes_out=112)
    with pytest.raises(ValueError, match="16-bit"):
        sparse_conv2d(problem, SparseConvTiling(4, 128), Epilogue(), native())


def test_packing_is_undone_by_unpacking():
    problem = Conv2d(1, 7, 20, 20, 10, (3, 5), (2, 2), (1, 0, 1, 2), lanes_in=24, lanes_out=16)
    weight = pruned(np.random.default_rng(0), (10, 7, 3, 5), 0.3)
    for shifted in (False, True):
        packed = PackedSparse.from_conv2d(weight, problem, SparseConvTiling(4, 3, shifted=shifted))
        np.testing.assert_array_equal(packed.to_dense(), weight.reshape(10, -1))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("name", "register"), [("skylake-avx512", "zmm"), ("haswell", "ymm")])
def test_inner_loop_stays_in_vector_registers(name, register, shifted):
    cpu = profile(name)
    problem = Conv2d(1, 64, 56, 56, 64, (3, 3), padding=(1, 1, 1, 1), lanes_in=64, lanes_out=64)
    width = cpu.vector_lanes()
    vectors = -(-56 // width)
    tiling = SparseConvTiling(2, 32, width=width, row_block=4, shifted=shifted)
    func = sparse_conv2d(problem, tiling, FULL, cpu)
    blocks = re.split(r"^\.LBB\w+:", assembly(func, cpu), flags=re.MULTILINE)
    blocks = [re.split(r"^\tj\w+\s", block, flags=re.MULTILINE)[0] for block in blocks]
    loops = [b for b in blocks if re.search(r"vfmadd\w+ps\s+-?\d*\(", b)]
    assert loops
    for loop in loops:
        # Two channels, four vectors; a row of seven vectors ends with a piece of three.
        count = len(re.findall(rf"vfmadd\w+ps\s+-?\d*\(.*%{register}", loop))
        assert count and any(count % (2 * piece) == 0 for piece in {4, vectors % 4 or 4})
        assert "rsp" not in loop, "accumulators or pointers are spilled"


def test_builds_for_128_bit_vectors():
    cpu = replace(
        profile("haswell"),
        triple="aarch64-linux-gnu",
        mcpu="cortex-a72",
        vector_bits=128,
        vector_registers=32,
    )
    problem = Conv2d(1, 8, 14, 14, 8, (3, 3), (2, 2), (1, 1, 1, 1), lanes_in=16, lanes_out=8)
    tiling = SparseConvTiling(4, 8, rows=1, width=cpu.vector_width(8), row_block=2)
    assert "fmla" in assembly(sparse_conv2d(problem, tiling, FULL, cpu), cpu)


@pytest.mark.parametrize(("channels", "size"), [(64, 56), (128, 28), (256, 14), (512, 7)])
def test_neon_multiplies_half_precision_at_nearly_twice_the_rate(channels, size):
    cpu = replace(profile("rpi5"), cores=1)
    rates = []
    for dtype in (DType.FLOAT32, DType.FLOAT16):
        lanes = cpu.image_lanes(size, dtype)
        problem = Conv2d(
            *(1, channels, size, size, channels, (3, 3)),
            padding=(1, 1, 1, 1),
            lanes_in=lanes,
            lanes_out=lanes,
            dtype=dtype,
        )
        tiling = SPARSE_CONV2D_FAMILY.default(Layer(problem, 0.05), cpu)
        loop = inner_loop(assembly(sparse_conv2d(problem, tiling, Epilogue(bias=True), cpu), cpu))
        assert not any("[sp" in line for line in loop), "sums are spilled"
        with needs_tool(ToolError):
            found = estimate(loop, cpu.mcpu)
        rates.append(found.multiply_adds * cpu.vector_lanes(dtype) / found.cycles)
    assert rates[1] > 1.6 * rates[0]

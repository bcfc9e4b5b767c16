import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvm_mca import inner_loop

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import FLOATS, DType
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.direct_depthwise import depthwise_conv2d, depthwise_stage
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.testing.images import (
    assert_near,
    conv2d_problems,
    conv2d_reference,
    image_panels,
    panel_image,
    rounded,
)
from tvm_sparse.testing.kernels import assembly, run_in_columns, run_kernel
from tvm_sparse.tilings.depthwise_conv2d import DEPTHWISE_CONV2D_FAMILY, reads_in_place
from tvm_sparse.tilings.layer import Layer

FULL = Epilogue(bias=True, residual=True, activation="relu")
ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}
EPILOGUES = [Epilogue(), FULL, *(Epilogue(True, False, f) for f in ("relu6", "silu", "hardswish"))]


def check(problem, epilogue, cpu):
    """Compare the kernel with NumPy in double precision; no lane may hold a NaN afterwards."""
    rng = np.random.default_rng(0)
    n, rows = problem.out_channels, problem.batch * problem.out_height
    dtype = problem.dtype
    x = rng.standard_normal((problem.batch, problem.channels, problem.height, problem.width))
    x = rounded(x, dtype)
    shape = (n, problem.channels // problem.groups, *problem.kernel)
    weight = rounded(rng.standard_normal(shape), dtype).astype("float32")
    expected = conv2d_reference(x, weight, problem)
    inputs = [image_panels(x, problem.lanes_in, junk=7), weight]
    if epilogue.bias:
        inputs.append(rounded(rng.standard_normal(n), dtype))
        expected += inputs[-1][:, None, None]
    if epilogue.residual:
        residual = rounded(rng.standard_normal(expected.shape), dtype)
        inputs.append(image_panels(residual, problem.lanes_out, junk=7))
        expected += residual
    expected = ACTIVATIONS[epilogue.activation](expected)
    inputs = [array.astype(dtype) for array in inputs]
    y = run_kernel(
        depthwise_conv2d(problem, epilogue, cpu), inputs, (rows, n, problem.lanes_out), cpu
    )
    assert np.isfinite(y).all()
    result = panel_image(y, expected.shape)
    assert_near(result, expected, dtype)


@settings(max_examples=25, deadline=None)
@given(
    problem=conv2d_problems(native(), depthwise=True),
    epilogue=st.sampled_from(EPILOGUES),
    name=st.sampled_from(["native", "haswell"]),
)
def test_any_convolution(problem, epilogue, name):
    check(problem, epilogue, profile(name))


@settings(max_examples=15, deadline=None)
@given(
    problem=conv2d_problems(native(), depthwise=True, dtype=DType.FLOAT16),
    epilogue=st.sampled_from([Epilogue(), Epilogue(bias=True, residual=True)]),
)
def test_any_convolution_in_half_precision(problem, epilogue):
    check(problem, epilogue, native())


needs_avx512 = pytest.mark.skipif(native().vector_lanes() < 16, reason="this CPU has no AVX-512")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [pytest.param("skylake-avx512", marks=needs_avx512), "haswell"])
@pytest.mark.parametrize(("column", "step", "overlap"), [(9, 2, "carry"), (5, 3, "recompute")])
def test_in_columns(column, step, overlap, name, dtype):
    cpu, lanes = profile(name), 16
    sizes = (1, 5, 18, 14, 5, (3, 3), (2, 1), (1, 1, 1, 1), (1, 1), 5)
    problem = Conv2d(*sizes, lanes_in=lanes, lanes_out=lanes, dtype=dtype)
    rng = np.random.default_rng(0)
    x = rounded(rng.standard_normal((1, 5, 18, 14)), dtype)
    weight = rounded(rng.standard_normal((5, 1, 3, 3)), dtype)
    arrays = {"x": image_panels(x, lanes, junk=7).astype(dtype), "weight": weight.astype(dtype)}
    stage = depthwise_stage(problem, Epilogue(), cpu)
    assert reads_in_place(problem, cpu) == (name == "skylake-avx512")
    y = run_in_columns(stage, arrays, ColumnPlan(column, step, overlap), cpu)
    expected = conv2d_reference(x, weight, problem)
    assert_near(panel_image(y, expected.shape), expected, dtype)


def test_rows_that_see_no_pixel_need_a_window():
    sizes = (1, 3, 6, 14, 3, (3, 3), (1, 1), (3, 1, 1, 1), (1, 1), 3)
    problem = Conv2d(*sizes, lanes_in=16, lanes_out=16)
    assert not reads_in_place(problem, profile("skylake-avx512"))
    check(problem, FULL, native())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_usual_kernels(size, stride):
    cpu = native()
    half, lanes = size // 2, cpu.image_lanes(28)
    problem = Conv2d(
        *(2, 37, 28, 28, 37, (size, size), (stride, stride), (half,) * 4, (1, 1), 37),
        lanes_in=lanes,
        lanes_out=lanes // stride,
    )
    check(problem, EPILOGUES[2], cpu)


def test_large_images_are_cut_into_blocks_of_rows():
    cpu = profile("haswell")
    problem = Conv2d(
        *(1, 3, 130, 300, 3, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 3), lanes_in=304, lanes_out=304
    )
    assert DEPTHWISE_CONV2D_FAMILY.default(Layer(problem), cpu).row_block < 130
    check(problem, FULL, cpu)


def test_grouped_convolutions_are_refused():
    problem = Conv2d(1, 8, 7, 7, 8, (1, 1), groups=2, lanes_in=8, lanes_out=8)
    with pytest.raises(ValueError, match="one channel per group"):
        depthwise_conv2d(problem, Epilogue(), native())


@pytest.mark.parametrize("width", [7, 30, 41])
def test_short_vectors(width):
    cpu = replace(native(), vector_bits=128)
    lanes = cpu.image_lanes(width)
    problem = Conv2d(
        *(1, 3, 9, width, 3, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 3),
        lanes_in=lanes,
        lanes_out=lanes,
    )
    check(problem, FULL, cpu)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("board", ["rpi4", "rpi5", "graviton2"])
def test_neon_multiplies_by_elements_and_hardly_spills(board, stride):
    cpu = profile(board)
    problem = Conv2d(
        *(1, 64, 56, 56, 64, (3, 3), (stride, stride), (1, 1, 1, 1), (1, 1), 64),
        lanes_in=cpu.image_lanes(56),
        lanes_out=cpu.image_lanes(56 // stride),
    )
    tiling = DEPTHWISE_CONV2D_FAMILY.default(Layer(problem), cpu)
    loop = inner_loop(assembly(depthwise_conv2d(problem, FULL, cpu), cpu))
    sums = [line for line in loop if line.startswith("fmla")]
    assert len(sums) == 9 * tiling.rows * tiling.vectors
    assert all(re.search(r"\.s\[\d\]$", line) for line in sums)
    spills = [line for line in loop if re.match(r"st.*\bq\d+.*\[sp", line)]
    assert len(spills) <= len(sums) // 8, "weights are spilled"

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvm_mca import inner_loop

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.dense import pack_conv2d
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.conv2d import DenseConv2d, conv2d
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
from tvm_sparse.tilings.conv2d import CONV2D_FAMILY
from tvm_sparse.tilings.layer import Layer

FULL = Epilogue(bias=True, residual=True, activation="relu")


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
    packed = pack_conv2d(
        weight, problem.groups, CONV2D_FAMILY.default(Layer(problem), cpu).channels
    )
    inputs = [image_panels(x, problem.lanes_in, junk=7), packed]
    if epilogue.bias:
        inputs.append(rounded(rng.standard_normal(n), dtype))
        expected += inputs[-1][:, None, None]
    if epilogue.residual:
        residual = rounded(rng.standard_normal(expected.shape), dtype)
        inputs.append(image_panels(residual, problem.lanes_out, junk=7))
        expected += residual
    if epilogue.activation == "relu":
        expected = np.maximum(expected, 0)
    inputs = [array.astype(dtype) for array in inputs]
    y = run_kernel(conv2d(problem, epilogue, cpu), inputs, (rows, n, problem.lanes_out), cpu)
    assert np.isfinite(y).all()
    result = panel_image(y, expected.shape)
    assert_near(result, expected, dtype)


@settings(max_examples=25, deadline=None)
@given(
    problem=conv2d_problems(native()),
    groups=st.sampled_from([1, 1, 2, 3]),
    epilogue=st.sampled_from([Epilogue(), FULL, Epilogue(bias=True), Epilogue(residual=True)]),
    name=st.sampled_from(["native", "haswell"]),
)
def test_any_convolution(problem, groups, epilogue, name):
    channels, outputs = problem.channels * groups, problem.out_channels * groups
    problem = replace(problem, channels=channels, out_channels=outputs, groups=groups)
    check(problem, epilogue, profile(name))


@settings(max_examples=15, deadline=None)
@given(
    problem=conv2d_problems(native(), dtype=DType.FLOAT16),
    groups=st.sampled_from([1, 1, 2, 3]),
    epilogue=st.sampled_from([Epilogue(), Epilogue(bias=True, residual=True)]),
)
def test_any_convolution_in_half_precision(problem, groups, epilogue):
    channels, outputs = problem.channels * groups, problem.out_channels * groups
    problem = replace(problem, channels=channels, out_channels=outputs, groups=groups)
    check(problem, epilogue, native())


def test_sums_in_half_precision_are_short():
    cpu, half = native(), DType.FLOAT16
    sizes = {"lanes_in": cpu.image_lanes(14, half), "lanes_out": cpu.image_lanes(14, half)}
    problem = Conv2d(1, 300, 4, 14, 5, (3, 3), padding=(1, 1, 1, 1), **sizes, dtype=half)
    stage = DenseConv2d(problem, Epilogue(), cpu)
    assert stage.depth * 9 <= 256 + 9
    check(problem, Epilogue(bias=True, residual=True), cpu)


def test_wide_images_are_cut_into_blocks_of_rows():
    cpu = profile("haswell")
    lanes = cpu.image_lanes(300)
    problem = Conv2d(
        1, 16, 19, 300, 7, (3, 3), (2, 1), (1, 1, 1, 1), lanes_in=lanes, lanes_out=lanes
    )
    assert CONV2D_FAMILY.default(Layer(problem), cpu).row_block < 10
    check(problem, FULL, cpu)


def test_few_rows_leave_a_share_of_the_channels_to_every_core():
    cpu = replace(native(), cores=4)
    problem = Conv2d(1, 6, 1, 20, 90, (1, 1), lanes_in=32, lanes_out=32)
    assert CONV2D_FAMILY.default(Layer(problem), cpu).chunks == 4
    check(problem, FULL, cpu)


@pytest.mark.parametrize(("name", "register"), [("skylake-avx512", "zmm"), ("haswell", "ymm")])
@pytest.mark.parametrize("width", [56, 14])
def test_register_tile_is_not_spilled(name, register, width):
    cpu = profile(name)
    lanes = cpu.image_lanes(width)
    problem = Conv2d(
        1, 64, 14, width, 64, (3, 3), padding=(1, 1, 1, 1), lanes_in=lanes, lanes_out=lanes
    )
    tiling = CONV2D_FAMILY.default(Layer(problem), cpu)
    code = assembly(conv2d(problem, FULL, cpu), cpu)
    blocks = re.split(r"^\.LBB\w+:", code, flags=re.MULTILINE)
    loops = [b for b in blocks if len(re.findall(rf"vfmadd.*%{register}", b)) >= 24]
    assert loops
    for loop in loops:
        assert len(re.findall("vfmadd", loop)) % (3 * tiling.channels) == 0
        # LLVM unrolls the kernel rows, and then keeps a weight in memory here and there.
        body = loop[: loop.rindex("vfmadd")]
        spills = len(re.findall(r"vmovups\s+%[yz]mm\d+, \d*\(%rsp\)", body))
        assert spills <= len(re.findall("vfmadd", loop)) // 12, "accumulators are spilled"


@pytest.mark.parametrize(("width", "kernel"), [(7, 3), (14, 3), (28, 5)])
def test_register_tile_of_neon_is_not_spilled(width, kernel):
    cpu = replace(profile("rpi4"), cores=1)
    lanes, padding = cpu.image_lanes(width), (kernel // 2,) * 4
    sizes = (1, 70, width, width, 70, (kernel, kernel))
    problem = Conv2d(*sizes, padding=padding, lanes_in=lanes, lanes_out=lanes)
    loop = inner_loop(assembly(conv2d(problem, FULL, cpu), cpu))
    assert not any(re.search(r"\bq\d+.*\[sp", line) for line in loop)


def test_builds_for_128_bit_vectors():
    cpu = replace(
        profile("haswell"),
        triple="aarch64-linux-gnu",
        mcpu="cortex-a72",
        vector_bits=128,
        vector_registers=32,
    )
    problem = Conv2d(1, 3, 14, 14, 8, (7, 7), (2, 2), (3, 3, 3, 3), lanes_in=16, lanes_out=8)
    assert "fmla" in assembly(conv2d(problem, FULL, cpu), cpu)

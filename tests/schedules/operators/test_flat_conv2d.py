"""Dense convolutions whose vectors run over the pixels of all rows, against NumPy."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import native
from tvm_sparse.formats.dense import pack_conv2d
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.flat_conv2d import FlatConv2d, flat_conv2d
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.flat_window import FlatWindow
from tvm_sparse.testing.images import (
    assert_near,
    conv2d_problems,
    conv2d_reference,
    image_panels,
    panel_image,
)
from tvm_sparse.testing.kernels import run_in_columns, run_kernel
from tvm_sparse.tilings.flat_conv2d import FLAT_CONV2D_FAMILY, FlatConv2dTiling
from tvm_sparse.tilings.layer import Layer

# Another machine's code is compiled for this one; it has vectors of this length in any case.
CPU = replace(native(), vector_bits=512, vector_registers=32)
SHORT = replace(native(), vector_bits=256, vector_registers=16)
FULL = Epilogue(bias=True, residual=True, activation="relu")


def operands(problem, tiling, epilogue):
    """Return the arrays of a call by name, and its result in double precision."""
    rng, n = np.random.default_rng(0), problem.out_channels
    shape = (problem.batch, problem.channels, problem.height, problem.width)
    x = rng.standard_normal(shape).astype("float32")
    shape = (n, problem.channels // problem.groups, *problem.kernel)
    weight = rng.standard_normal(shape).astype("float32")
    expected = conv2d_reference(x, weight, problem)
    arrays = {"x": image_panels(x, problem.lanes_in, junk=7)}
    arrays["weight"] = pack_conv2d(weight, problem.groups, tiling.channels)
    if epilogue.bias:
        arrays["bias"] = rng.standard_normal(n).astype("float32")
        expected += arrays["bias"][:, None, None]
    if epilogue.residual:
        residual = rng.standard_normal(expected.shape).astype("float32")
        arrays["residual"] = image_panels(residual, problem.lanes_out, junk=7)
        expected += residual
    return arrays, np.maximum(expected, 0) if epilogue.activation else expected


def check(problem, tiling=None, epilogue=FULL, cpu=CPU):
    tiling = tiling or FLAT_CONV2D_FAMILY.default(Layer(problem), cpu)
    arrays, expected = operands(problem, tiling, epilogue)
    shape = (problem.batch * problem.out_height, problem.out_channels, problem.lanes_out)
    y = run_kernel(flat_conv2d(problem, epilogue, cpu, tiling), [*arrays.values()], shape, cpu)
    assert np.isfinite(y).all()
    assert_near(panel_image(y, expected.shape), expected, problem.dtype)


def square(size, kernel=3, stride=1, **sizes):
    """Return the sizes of a convolution of square images that keeps their size."""
    lanes = [CPU.image_lanes(side) for side in (size, -(-size // stride))]
    fields = {"batch": 1, "channels": 9, "out_channels": 13, **sizes}
    return Conv2d(
        height=size,
        width=size,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2,) * 4,
        lanes_in=lanes[0],
        lanes_out=lanes[1],
        **fields,
    )


@settings(max_examples=40, deadline=None)
@given(
    problem=conv2d_problems(CPU),
    groups=st.sampled_from([1, 1, 2, 3]),
    channels=st.sampled_from([1, 3, 6]),
    vectors=st.integers(1, 4),
    row_block=st.integers(1, 9),
    chunks=st.sampled_from([1, 2]),
    cpu=st.sampled_from([CPU, SHORT]),
    epilogue=st.sampled_from([Epilogue(), FULL, Epilogue(bias=True), Epilogue(residual=True)]),
)
def test_any_convolution(problem, groups, channels, vectors, row_block, chunks, cpu, epilogue):
    outputs = problem.out_channels * groups
    problem = replace(
        problem, channels=problem.channels * groups, out_channels=outputs, groups=groups
    )
    assume(not problem.is_depthwise)
    row_block = min(row_block, problem.out_height)
    width = cpu.vector_lanes(problem.dtype)
    check(problem, FlatConv2dTiling(channels, vectors, width, row_block, chunks), epilogue, cpu)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("size", [5, 7, 14, 20])
def test_images_of_networks(size, kernel, stride):
    problem = square(size, kernel, stride, batch=2)
    if not FLAT_CONV2D_FAMILY.refusal(Layer(problem), CPU):
        check(problem)


@pytest.mark.parametrize("overlap", ["carry", "recompute"])
@pytest.mark.parametrize(("column", "step"), [(7, 7), (4, 2), (5, 3), (7, 1)])
def test_in_columns(column, step, overlap):
    problem = square(7)
    tiling = FlatConv2dTiling(6, 2, CPU.vector_lanes(problem.dtype), 7, 1)
    arrays, expected = operands(problem, tiling, FULL)
    stage = FlatConv2d(problem, FULL, CPU, tiling)
    y = run_in_columns(stage, arrays, ColumnPlan(column, step, overlap), CPU)
    assert_near(panel_image(y, expected.shape), expected, problem.dtype)


def test_an_infinite_pixel_reaches_its_neighbours_only():
    problem = square(7)
    tiling = FLAT_CONV2D_FAMILY.default(Layer(problem), CPU)
    arrays, _ = operands(problem, tiling, Epilogue())
    arrays["x"][3, 2, 6] = np.inf
    func = flat_conv2d(problem, Epilogue(), CPU, tiling)
    y = run_kernel(func, [*arrays.values()], (7, 13, problem.lanes_out), CPU)
    wrong = ~np.isfinite(y[..., :7])
    assert wrong[2:5, :, 5:].all()
    assert wrong.sum() == 3 * 13 * 2


def test_gaps_between_rows_take_no_vectors():
    problem = square(20)
    window = FlatWindow(problem, 16, problem.channels, tile_rows=20)
    assert window.pitch == 21  # a zero stands between two rows
    assert window.vectors == -(-(19 * 21 + 20) // 16)
    assert "no idle lanes" in FLAT_CONV2D_FAMILY.refusal(Layer(square(32)), CPU)

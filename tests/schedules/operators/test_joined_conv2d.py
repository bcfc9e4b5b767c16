"""Convolutions whose vectors span several rows of narrow images, against NumPy."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import FLOATS, DType
from tvm_sparse.formats.joined import JoinedTiling, joined_layout, joined_window
from tvm_sparse.formats.sparse import PackedSparse
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.elementwise import elementwise
from tvm_sparse.schedules.operators.joined_conv2d import JoinedConv2d, joined_conv2d
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.joined_window import joins_rows
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.images import (
    assert_near,
    conv2d_problems,
    conv2d_reference,
    image_panels,
    panel_image,
    rounded,
)
from tvm_sparse.testing.kernels import assembly, run_in_columns, run_kernel
from tvm_sparse.testing.models import pruned

# Another machine's code is compiled for this one; it has vectors of this length in any case.
CPU = replace(native(), vector_bits=512, vector_registers=32)
FULL = Epilogue(bias=True, residual=True)
EPILOGUES = st.sampled_from([Epilogue(), FULL, Epilogue(bias=True), Epilogue(residual=True)])
ROWS = {DType.FLOAT32: 2, DType.FLOAT16: 4}
"""Rows of 8 lanes in a vector."""


def operands(problem, tiling, density, epilogue):
    """Return the arrays of a call by name, and its result in double precision."""
    rng, dtype = np.random.default_rng(0), problem.dtype
    n = problem.out_channels
    shape = (problem.batch, problem.channels, problem.height, problem.width)
    x = rounded(rng.standard_normal(shape), dtype)
    weight = rounded(pruned(rng, (n, problem.channels, *problem.kernel), density), dtype)
    layout = joined_layout(problem, tiling)
    packed = PackedSparse.pack(weight.astype("float32").reshape(layout.n, layout.k), layout)
    expected = conv2d_reference(x, weight, problem)
    arrays = {"x": image_panels(x, problem.lanes_in, junk=7)}
    arrays |= {name: getattr(packed, name) for name in ("indptr", "channels", "offsets", "values")}
    if epilogue.bias:
        arrays["bias"] = rounded(rng.standard_normal(n), dtype)
        expected += arrays["bias"][:, None, None]
    if epilogue.residual:
        residual = rounded(rng.standard_normal(expected.shape), dtype)
        arrays["residual"] = image_panels(residual, problem.lanes_out, junk=7)
        expected += residual
    held = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    return held, expected


def check(problem, tiling, density=0.4, epilogue=FULL, cpu=CPU):
    arrays, expected = operands(problem, tiling, density, epilogue)
    shape = (problem.batch * problem.out_height, problem.out_channels, problem.lanes_out)
    y = run_kernel(joined_conv2d(problem, tiling, epilogue, cpu), [*arrays.values()], shape, cpu)
    assert np.isfinite(y).all()
    assert_near(panel_image(y, expected.shape), expected, problem.dtype)


def square(size, kernel=3, stride=1, dtype=DType.FLOAT16, **sizes):
    """Return the sizes of a convolution of square images that keeps their size."""
    lanes = [CPU.image_lanes(side, dtype) for side in (size, -(-size // stride))]
    fields = {"batch": 1, "channels": 9, "out_channels": 12, **sizes}
    return Conv2d(
        height=size,
        width=size,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2,) * 4,
        lanes_in=lanes[0],
        lanes_out=lanes[1],
        dtype=dtype,
        **fields,
    )


@settings(max_examples=40, deadline=None)
@given(
    problem=st.one_of(*(conv2d_problems(CPU, dtype=dtype) for dtype in FLOATS)),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    group=st.sampled_from([1, 3, 4, 8]),
    k_block=st.sampled_from([2, 5, 100]),
    split=st.booleans(),
    rows=st.integers(1, 9),
    shifted=st.booleans(),
    vectors=st.integers(1, 3),
    epilogue=EPILOGUES,
)
def test_any_convolution(problem, density, group, k_block, split, rows, shifted, vectors, epilogue):
    width = CPU.vector_lanes(problem.dtype)
    assume(joins_rows(problem, width))
    if split:
        problem = replace(problem, out_channels=2 * problem.out_channels)
    tiling = JoinedTiling(
        group, k_block, 1 + split, 16, rows, width=width, vectors=vectors, shifted=shifted
    )
    assume(joined_window(problem, tiling).joined > 0)
    check(problem, tiling, density, epilogue)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("size", [5, 7, 14])
def test_images_of_networks(size, kernel, stride, dtype):
    problem = square(size, kernel, stride, dtype, batch=2)
    width = CPU.vector_lanes(dtype)
    if joins_rows(problem, width):
        check(problem, JoinedTiling(4, 4, rows=problem.out_height, width=width, vectors=2))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("overlap", ["carry", "recompute"])
@pytest.mark.parametrize(("column", "step"), [(7, 7), (4, 2), (5, 3), (7, 1)])
def test_in_columns(column, step, overlap, dtype):
    problem = square(7, dtype=dtype)
    tiling = JoinedTiling(4, 4, rows=4, width=CPU.vector_lanes(dtype), vectors=2)
    arrays, expected = operands(problem, tiling, 0.4, FULL)
    stage = JoinedConv2d(problem, tiling, FULL, CPU)
    y = run_in_columns(stage, arrays, ColumnPlan(column, step, overlap), CPU)
    assert_near(panel_image(y, expected.shape), expected, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["hardswish", "gelu", "leaky_relu(0.1)", "silu"])
def test_activations_of_joined_rows(name, dtype):
    problem = square(7, dtype=dtype)
    tiling = JoinedTiling(4, 4, rows=4, width=CPU.vector_lanes(dtype), vectors=2)
    arrays, _ = operands(problem, tiling, 0.4, FULL)
    results = []
    for epilogue in (FULL, replace(FULL, activation=name)):
        func = joined_conv2d(problem, tiling, epilogue, CPU)
        results.append(run_kernel(func, [*arrays.values()], (7, 12, problem.lanes_out), CPU))
    shape = results[0].shape
    tensor = Tensor(1, *shape, dtype)
    want = run_kernel(elementwise(name, tensor, [shape], CPU), results[:1], shape, CPU)
    lanes = slice(problem.out_width)
    tolerance = 1e-6 if dtype == DType.FLOAT32 else 2e-3
    np.testing.assert_allclose(results[1][..., lanes], want[..., lanes], tolerance, tolerance)


def test_vectors_span_rows():
    for dtype, rows in ROWS.items():
        width = CPU.vector_lanes(dtype)
        window = joined_window(square(7, dtype=dtype), JoinedTiling(4, 9, rows=7, width=width))
        assert (window.joined, window.vectors) == (rows, -(-7 // rows))


def test_packing_is_undone_by_unpacking():
    problem = square(7, 3, 2)
    weight = pruned(np.random.default_rng(0), (12, 9, 3, 3), 0.3)
    for shifted in (False, True):
        tiling = JoinedTiling(4, 3, rows=4, width=32, shifted=shifted)
        packed = PackedSparse.pack(weight.reshape(12, -1), joined_layout(problem, tiling))
        np.testing.assert_array_equal(packed.to_dense(), weight.reshape(12, -1))


def test_grouped_convolutions_are_refused():
    problem = replace(square(7), channels=12, groups=2)
    with pytest.raises(ValueError, match="one group"):
        joined_conv2d(problem, JoinedTiling(4, 8, width=32), Epilogue(), CPU)


def test_inner_loop_stays_in_vector_registers():
    cpu = profile("skylake-avx512")
    problem = square(7, dtype=DType.FLOAT32, channels=64, out_channels=64)
    tiling = JoinedTiling(4, 32, rows=7, width=16, vectors=4)
    blocks = re.split(
        r"^\.LBB\w+:", assembly(joined_conv2d(problem, tiling, FULL, cpu), cpu), flags=re.M
    )
    loops = [b for b in blocks if len(re.findall(r"vfmadd\w+ps\s+-?\d*\(.*%zmm", b)) >= 16]
    assert loops
    for loop in loops:
        body = loop[: loop.rindex("vfmadd")]
        assert "rsp" not in body, "accumulators or pointers are spilled"

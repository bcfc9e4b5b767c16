from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import CpuProfile, native, profile
from tvm_sparse.schedules.operators.bilinear2d import Bilinear2d, bilinear2d
from tvm_sparse.sizes.resize2d import COORDINATES, Resize2d
from tvm_sparse.testing.images import image_panels, panel_image
from tvm_sparse.testing.kernels import assembly, run_in_columns, run_kernel

NEON = CpuProfile(
    "neon", "aarch64-linux-gnu", "cortex-a72", (), 4, 128, 32, 32 << 10, 1 << 20, 1 << 20
)


def weights(extent: int, out: int, coordinates: str) -> np.ndarray:
    """Return the matrix [out, extent] of an interpolation along one axis."""
    i = np.arange(out)
    place = {
        "half_pixel": (i + 0.5) * extent / out - 0.5,
        "align_corners": i * (extent - 1) / max(out - 1, 1),
        "asymmetric": i * extent / out,
    }[coordinates]
    place = np.clip(place, 0, extent - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(extent)))


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (2, 5, 6, 50))),
    out_height=st.integers(1, 12),
    wider=st.integers(0, 70),
    coordinates=st.sampled_from(COORDINATES),
    cpu=st.sampled_from([native(), profile("haswell")]),
)
def test_linear_in_both_axes(shape, out_height, wider, coordinates, cpu):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    size = (out_height, shape[3] + wider)
    lanes = [cpu.image_lanes(width) for width in (shape[3], size[1])]
    resize = Resize2d(*shape, *size, coordinates, lanes_in=lanes[0], lanes_out=lanes[1])
    out = (shape[0] * size[0], shape[1], lanes[1])
    got = run_kernel(bilinear2d(resize, cpu), [image_panels(x, lanes[0], junk=99)], out, cpu)
    assert np.isfinite(got).all()
    down, across = (weights(shape[2 + i], size[i], coordinates) for i in range(2))
    want = np.einsum("nchw,ih,jw->ncij", x, down, across)
    np.testing.assert_allclose(panel_image(got, want.shape), want, rtol=1e-5, atol=2e-5)


@settings(max_examples=10, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (2, 3, 9, 20))),
    out_height=st.integers(1, 20),
    coordinates=st.sampled_from(COORDINATES),
    column=st.integers(1, 20),
    step=st.integers(1, 7),
)
def test_rows_in_columns(shape, out_height, coordinates, column, step):
    x, cpu = np.random.default_rng(0).standard_normal(shape).astype("float32"), native()
    size = (out_height, shape[3] + 3)
    lanes = [cpu.image_lanes(width) for width in (shape[3], size[1])]
    resize = Resize2d(*shape, *size, coordinates, lanes_in=lanes[0], lanes_out=lanes[1])
    stage, panels = Bilinear2d(resize, cpu), image_panels(x, lanes[0], junk=99)
    got = run_in_columns(stage, {"x": panels}, ColumnPlan(column, step))
    out = (resize.batch * out_height, resize.channels, lanes[1])
    np.testing.assert_array_equal(got, run_kernel(bilinear2d(resize, cpu), [panels], out, cpu))


def test_a_row_twice_as_high_sees_its_neighbours_only():
    resize = Resize2d(1, 1, 40, 8, 80, 16, "half_pixel", lanes_in=8, lanes_out=16)
    seen = resize.rows_seen
    assert [(seen.first(row), seen.end(row + 1)) for row in (10, 11)] == [(4, 7), (4, 7)]


def test_cross_compilation():
    resize = Resize2d(1, 4, 8, 20, 16, 40, "half_pixel", lanes_in=20, lanes_out=40)
    assert "fmla\tv" in assembly(bilinear2d(resize, NEON), NEON)

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import CpuProfile, native, profile
from tvm_sparse.schedules.operators.upsample2d import Upsample2d, upsample2d
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.images import image_panels, panel_image
from tvm_sparse.testing.kernels import assembly, run_in_columns, run_kernel

NEON = CpuProfile(
    "neon", "aarch64-linux-gnu", "cortex-a72", (), 4, 128, 32, 32 << 10, 1 << 20, 1 << 20
)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (2, 4, 4, 50))),
    factors=st.tuples(st.integers(1, 4), st.integers(1, 8)),
    cpu=st.sampled_from([native(), profile("haswell")]),
)
def test_every_pixel_is_repeated(shape, factors, cpu):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    want = x.repeat(factors[0], 2).repeat(factors[1], 3)
    lanes = cpu.image_lanes(shape[3]), cpu.image_lanes(want.shape[3])
    func = upsample2d(*shape, factors, *lanes, cpu)
    out = (shape[0] * shape[2] * factors[0], shape[1], lanes[1])
    got = run_kernel(func, [image_panels(x, lanes[0], junk=99)], out, cpu)
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(panel_image(got, want.shape), want)


@settings(max_examples=8, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (2, 4, 7, 20))),
    factors=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    column=st.integers(1, 20),
    step=st.integers(1, 7),
)
def test_rows_in_columns(shape, factors, column, step):
    x, cpu = np.random.default_rng(0).standard_normal(shape).astype("float32"), native()
    want = x.repeat(factors[0], 2).repeat(factors[1], 3)
    lanes = cpu.image_lanes(shape[3]), cpu.image_lanes(want.shape[3])
    source = Tensor(shape[0], shape[2], shape[1], lanes[0])
    stage = Upsample2d(source, shape[3], factors, lanes[1], cpu)
    got = run_in_columns(stage, {"x": image_panels(x, lanes[0], junk=99)}, ColumnPlan(column, step))
    np.testing.assert_array_equal(panel_image(got, want.shape), want)


def test_neighbours_are_interleaved_in_registers():
    assert "zip" in assembly(upsample2d(1, 4, 20, 20, (2, 2), 20, 40, NEON), NEON)
    avx2 = profile("haswell")
    source = assembly(upsample2d(1, 4, 20, 20, (2, 2), 24, 40, avx2), avx2)
    assert "vpermps" in source or "vunpcklps" in source

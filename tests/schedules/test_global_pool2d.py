from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.schedules.global_pool2d import global_avg_pool2d
from tvm_sparse.targets import CpuProfile, native, profile
from tvm_sparse.testing import assembly, image_panels, run_kernel

NEON = CpuProfile(
    "neon", "aarch64-linux-gnu", "cortex-a72", (), 4, 128, 32, 32 << 10, 1 << 20, 1 << 20
)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (3, 40, 9, 70))),
    cpu=st.sampled_from([native(), profile("haswell")]),
)
def test_mean_of_all_pixels(shape, cpu):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    panels = image_panels(x, cpu.image_lanes(shape[3]), junk=99)
    lanes = cpu.image_lanes(1)
    func = global_avg_pool2d(*shape, panels.shape[2], lanes, cpu)
    got = run_kernel(func, [panels], (*shape[:2], lanes), cpu)
    want = np.broadcast_to(x.mean((2, 3), dtype="float64")[..., None], got.shape)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_cross_compilation():
    func = global_avg_pool2d(1, 16, 7, 7, 8, 8, NEON)
    assert "fadd\tv" in assembly(func, NEON)

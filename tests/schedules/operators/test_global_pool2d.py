from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import CpuProfile, native, profile
from tvm_sparse.schedules.operators.global_pool2d import global_avg_pool2d, global_max_pool2d
from tvm_sparse.testing.images import image_panels
from tvm_sparse.testing.kernels import assembly, run_kernel

NEON = CpuProfile(
    "neon", "aarch64-linux-gnu", "cortex-a72", (), 4, 128, 32, 32 << 10, 1 << 20, 1 << 20
)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (3, 40, 9, 70))),
    cpu=st.sampled_from([native(), profile("haswell")]),
    is_mean=st.booleans(),
)
def test_all_pixels(shape, cpu, is_mean):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32") - 9
    panels = image_panels(x, cpu.image_lanes(shape[3]), junk=99)
    lanes = cpu.image_lanes(1)
    build = global_avg_pool2d if is_mean else global_max_pool2d
    got = run_kernel(build(shape, panels.shape[2], lanes, cpu), [panels], (*shape[:2], lanes), cpu)
    want = x.mean((2, 3), dtype="float64") if is_mean else x.max((2, 3))
    np.testing.assert_allclose(got, np.broadcast_to(want[..., None], got.shape), rtol=1e-6)


def test_cross_compilation():
    func = global_avg_pool2d((1, 16, 7, 7), 8, 8, NEON)
    assert "fadd\tv" in assembly(func, NEON)

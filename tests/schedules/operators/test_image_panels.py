from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import CpuProfile, native, profile
from tvm_sparse.dtypes import FLOATS
from tvm_sparse.schedules.operators.image_panels import (
    ImageToPanels,
    PanelsToImage,
    image_to_panels,
    panels_to_image,
)
from tvm_sparse.testing.images import image_panels
from tvm_sparse.testing.kernels import assembly, run_in_columns, run_kernel

NEON = CpuProfile(
    "neon", "aarch64-linux-gnu", "cortex-a72", (), 4, 128, 32, 32 << 10, 1 << 20, 1 << 20
)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (2, 5, 4, 150))),
    spare=st.sampled_from([0, 16]),
    cpu=st.sampled_from([native(), profile("haswell")]),
    dtype=st.sampled_from(FLOATS),
)
def test_both_directions(shape, spare, cpu, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype).astype("float32")
    lanes = cpu.image_lanes(shape[3], dtype) + spare
    want = image_panels(x, lanes).astype(dtype)
    got = run_kernel(image_to_panels(*shape, lanes, cpu, dtype), [x], want.shape, cpu)
    np.testing.assert_array_equal(got, want)
    assert got.dtype == dtype
    junk = image_panels(x, lanes, junk=7).astype(dtype)
    got = run_kernel(panels_to_image(*shape, lanes, cpu, dtype), [junk], x.shape, cpu)
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize("shape", [(2, 3, 7, 21), (1, 2, 9, 160)])
def test_rows_in_columns(shape):
    x, cpu = np.random.default_rng(0).standard_normal(shape).astype("float32"), native()
    lanes = cpu.image_lanes(shape[3])
    panels = image_panels(x, lanes)
    got = run_in_columns(ImageToPanels(*shape, lanes, cpu), {"x": x}, ColumnPlan(5, 2))
    np.testing.assert_array_equal(got, panels)
    got = run_in_columns(PanelsToImage(*shape, lanes, cpu), {"x": panels}, ColumnPlan(5, 2))
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize(
    ("cpu", "register"),
    [(profile("haswell"), "%ymm"), (profile("skylake-avx512"), "%zmm"), (NEON, "q0")],
)
@pytest.mark.parametrize("build", [image_to_panels, panels_to_image])
def test_rows_are_copied_by_vectors(build, cpu, register):
    assert register in assembly(build(1, 4, 8, 100, cpu.image_lanes(100), cpu), cpu)

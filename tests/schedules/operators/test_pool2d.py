from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import CpuProfile, native, profile
from tvm_sparse.schedules.operators.pool2d import AvgPool2d, MaxPool2d, avg_pool2d, max_pool2d
from tvm_sparse.sizes.pool2d import Pool2d
from tvm_sparse.testing.images import image_panels, panel_image
from tvm_sparse.testing.kernels import assembly, run_in_columns, run_kernel

NEON = CpuProfile(
    "neon", "aarch64-linux-gnu", "cortex-a72", (), 4, 128, 32, 32 << 10, 1 << 20, 1 << 20
)


def windows(pool: Pool2d, x: np.ndarray, fill: float) -> np.ndarray:
    """Return the values of all windows, (batch, channels, out_height, out_width, kh, kw)."""
    (top, left, bottom, right), far = pool.padding, 2 * max(*pool.kernel, *pool.stride) + 9
    around = ((0, 0), (0, 0), (top, bottom + far), (left, right + far))
    padded = np.pad(x, around, constant_values=fill)
    rows, pixels = (
        np.arange(out)[:, None] * stride + np.arange(kernel) * dilation
        for out, stride, kernel, dilation in zip(
            (pool.out_height, pool.out_width), pool.stride, pool.kernel, pool.dilation, strict=True
        )
    )
    return padded[:, :, rows[:, None, :, None], pixels[None, :, None, :]]


def reference(pool: Pool2d, x: np.ndarray, is_mean: bool) -> np.ndarray:
    if not is_mean:
        return windows(pool, x, -np.inf).max((-2, -1))
    if not pool.count_padding:
        return np.nanmean(windows(pool, x.astype("float64"), np.nan), (-2, -1))
    top, left, bottom, right = pool.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right))).astype("float64")
    whole = Pool2d(
        *padded.shape,
        pool.out_height,
        pool.out_width,
        pool.kernel,
        pool.stride,
        dilation=pool.dilation,
        lanes_in=999,
        lanes_out=999,
    )
    return np.nanmean(windows(whole, padded, np.nan), (-2, -1))


@st.composite
def pools(draw, cpu: CpuProfile) -> Pool2d:
    kernel = draw(st.tuples(*[st.integers(1, 5)] * 2))
    stride = draw(st.tuples(*[st.integers(1, 3)] * 2))
    dilation = draw(st.tuples(*[st.sampled_from([1, 1, 2])] * 2))
    padding = tuple(draw(st.integers(0, kernel[axis % 2] // 2)) for axis in range(4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    height, width = draw(st.integers(reach[0], 12)), draw(st.integers(reach[1], 80))
    ceil_mode, out = draw(st.booleans()), []
    for axis, extent in enumerate((height, width)):
        before, after = padding[axis], padding[axis + 2]
        steps = (extent + before + after - reach[axis]) / stride[axis]
        size = int(np.ceil(steps) if ceil_mode else steps) + 1
        out.append(size - ((size - 1) * stride[axis] >= extent + before))
    return Pool2d(
        draw(st.integers(1, 2)),
        draw(st.integers(1, 6)),
        height,
        width,
        *out,
        kernel,
        stride,
        padding,
        dilation,
        draw(st.booleans()),
        lanes_in=cpu.image_lanes(width),
        lanes_out=cpu.image_lanes(out[1]),
    )


@settings(max_examples=25, deadline=None)
@given(data=st.data(), cpu=st.sampled_from([native(), profile("haswell")]), is_mean=st.booleans())
def test_any_window(data, cpu, is_mean):
    pool = data.draw(pools(cpu))
    check(pool, cpu, is_mean)


def check(pool: Pool2d, cpu: CpuProfile, is_mean: bool) -> None:
    shape = (pool.batch, pool.channels, pool.height, pool.width)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    want = reference(pool, x, is_mean)
    panels = image_panels(x, pool.lanes_in, junk=99)
    out = (pool.batch * pool.out_height, pool.channels, pool.lanes_out)
    got = run_kernel((avg_pool2d if is_mean else max_pool2d)(pool, cpu), [panels], out, cpu)
    assert np.isfinite(got).all()
    image = panel_image(got, want.shape)
    np.testing.assert_allclose(image, want, rtol=1e-6, atol=1e-6)


@settings(max_examples=12, deadline=None)
@given(
    data=st.data(),
    is_mean=st.booleans(),
    column=st.integers(1, 13),
    step=st.integers(1, 5),
    overlap=st.sampled_from(["carry", "recompute"]),
)
def test_rows_in_columns(data, is_mean, column, step, overlap):
    pool = data.draw(pools(native()))
    shape = (pool.batch, pool.channels, pool.height, pool.width)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    stage = (AvgPool2d if is_mean else MaxPool2d)(pool, native())
    panels = image_panels(x, pool.lanes_in, junk=99)
    got = run_in_columns(stage, {"x": panels}, ColumnPlan(column, step, overlap))
    want = reference(pool, x, is_mean)
    np.testing.assert_allclose(panel_image(got, want.shape), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("is_mean", [False, True])
@pytest.mark.parametrize(
    ("width", "kernel", "stride", "padding"),
    [(320, 3, 2, 1), (320, 5, 1, 2), (300, 9, 1, 4), (7, 7, 1, 0), (14, 14, 14, 0)],
)
def test_wide_images_and_windows(width, kernel, stride, padding, is_mean):
    height, cpu = min(width, 20), native()
    out = [(size + 2 * padding - kernel) // stride + 1 for size in (height, width)]
    pool = Pool2d(
        *(1, 2, height, width, *out),
        (kernel, kernel),
        (stride, stride),
        (padding,) * 4,
        lanes_in=cpu.image_lanes(width),
        lanes_out=cpu.image_lanes(out[1]),
    )
    check(pool, cpu, is_mean)


@pytest.mark.parametrize(
    ("cpu", "vector"),
    [
        (profile("haswell"), r"vmaxps\t.*%ymm"),
        (profile("skylake-avx512"), r"vmaxps\t.*%zmm"),
        (NEON, r"fcmg.\tv.*\.4s"),
    ],
)
def test_vectors(cpu, vector):
    pool = Pool2d(1, 8, 8, 32, 4, 16, (3, 3), (2, 2), (1, 1, 1, 1), lanes_in=32, lanes_out=16)
    assert re.search(vector, assembly(max_pool2d(pool, cpu), cpu))


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 1, 1, 1)])
def test_the_maximum_of_nothing_but_minus_infinity(padding):
    """Masked scores, in a corner of the image where a window also sees the padding."""
    cpu, side = native(), sum(padding[::2])
    x = np.random.default_rng(0).standard_normal((1, 3, 9, 20)).astype("float32")
    x[:, :, :6, :6] = -np.inf
    pool = Pool2d(
        *x.shape,
        out_height=(9 + side - 3) // 2 + 1,
        out_width=(20 + side - 3) // 2 + 1,
        kernel=(3, 3),
        stride=(2, 2),
        padding=padding,
        lanes_in=cpu.image_lanes(20),
        lanes_out=cpu.image_lanes((20 + side - 3) // 2 + 1),
    )
    want = reference(pool, x, is_mean=False)
    assert np.isneginf(want).any()
    shape = (pool.out_height, 3, pool.lanes_out)
    got = run_kernel(max_pool2d(pool, cpu), [image_panels(x, pool.lanes_in)], shape)
    np.testing.assert_array_equal(panel_image(got, want.shape), want)

"""Stages on float16 panels against the same stages on float32 panels of the same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.costs.elementwise import FUNCTIONS
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import FLOATS, DType
from tvm_sparse.schedules.operators.bilinear2d import Bilinear2d
from tvm_sparse.schedules.operators.concat import Concat
from tvm_sparse.schedules.operators.elementwise import Elementwise
from tvm_sparse.schedules.operators.global_pool2d import global_avg_pool2d, global_max_pool2d
from tvm_sparse.schedules.operators.pool2d import AvgPool2d, MaxPool2d
from tvm_sparse.schedules.operators.slice_channels import SliceChannels
from tvm_sparse.schedules.operators.upsample2d import Upsample2d
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.pool2d import Pool2d
from tvm_sparse.sizes.resize2d import COORDINATES, Resize2d
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.images import image_panels
from tvm_sparse.testing.kernels import (
    assembly,
    relative_rms,
    run_in_columns,
    run_kernel,
)

PLANS = [ColumnPlan(3, 2), ColumnPlan(5, 1)]


def check(stage_of, arrays, pixels=None, exact=False):
    """Compare both types; `stage_of` takes the type and the processor, `arrays` are by name."""
    halves = {name: array.astype("float16") for name, array in arrays.items()}
    wide = {name: half.astype("float32") for name, half in halves.items()}
    whole = stage_of(DType.FLOAT32, native())
    want = run_kernel(kernel(whole), [*wide.values()], whole.tensor.shape)[..., :pixels]
    cpu = native()
    stage = stage_of(DType.FLOAT16, cpu)
    results = [run_kernel(kernel(stage), [*halves.values()], stage.tensor.shape, cpu)]
    results += [run_in_columns(stage, halves, plan, cpu) for plan in PLANS]
    for got in results:
        assert got.dtype == "float16" and np.isfinite(got).all()
        got = got[..., :pixels]
        if exact:
            np.testing.assert_array_equal(got, want)
        else:
            assert relative_rms(got, want) <= 1e-3
        assert np.ptp(got) > 0 or got.size == 1


def image_lanes(width: int) -> int:
    """Return lanes that fill vectors of both types."""
    return native().image_lanes(width, DType.FLOAT16)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("name", [f.name for f in FUNCTIONS.values() if not f.parameters])
@pytest.mark.parametrize("lanes", [8, 24, 64])
def test_elementwise(name, lanes):
    function = FUNCTIONS[name]
    shapes = [(10, 7, lanes), (7, 1)][: function.operands]
    arrays = {f"x{i}": random(*shape) for i, shape in enumerate(shapes)}
    if name in ("log", "sqrt", "rsqrt", "power", "divide"):
        arrays = {key: np.abs(array) + 0.2 for key, array in arrays.items()}
    check(lambda dtype, cpu: Elementwise(name, Tensor(2, 5, 7, lanes, dtype), shapes, cpu), arrays)


@pytest.mark.parametrize("shape", [(10, 7, 1), (1, 7, 1), ()])
def test_operands_that_are_broadcast(shape):
    shapes = [(10, 7, 32), shape]
    arrays = {"x0": random(*shapes[0]), "x1": np.asarray(random(*shape), "float32")}
    check(
        lambda dtype, cpu: Elementwise("multiply", Tensor(2, 5, 7, 32, dtype), shapes, cpu), arrays
    )


@pytest.mark.parametrize("lanes", [8, 24, 144])
def test_copies_of_channels(lanes):
    x, y = random(10, 5, lanes), random(10, 2, lanes)
    check(
        lambda dtype, cpu: Concat([Tensor(2, 5, n, lanes, dtype) for n in (5, 2)], cpu),
        {"x0": x, "x1": y},
        exact=True,
    )
    check(
        lambda dtype, cpu: SliceChannels(Tensor(2, 5, 5, lanes, dtype), 1, 4, cpu),
        {"x": x},
        exact=True,
    )


def test_operands_of_different_types():
    tensors = [Tensor(1, 2, 3, 16, dtype) for dtype in FLOATS]
    with pytest.raises(ValueError, match="differ in more than their channels"):
        Concat(tensors, native())


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (2, 5, 9, 70))),
    window=st.tuples(*(st.integers(1, n) for n in (4, 5))),
    stride=st.tuples(*(st.integers(1, n) for n in (2, 3))),
    is_mean=st.booleans(),
    count_padding=st.booleans(),
)
def test_windows(shape, window, stride, is_mean, count_padding):
    height, width = shape[2:]
    padding = tuple(size // 2 for size in window) * 2
    out = [
        (extent + 2 * (size // 2) - size) // step + 1
        for extent, size, step in zip((height, width), window, stride, strict=True)
    ]
    if min(out) < 1:
        return
    lanes = {"lanes_in": image_lanes(width), "lanes_out": image_lanes(out[1])}
    x = image_panels(random(*shape), lanes["lanes_in"], junk=99)

    def stage(dtype, cpu):
        pool = Pool2d(
            *shape, *out, window, stride, padding, (1, 1), count_padding, **lanes, dtype=dtype
        )
        return (AvgPool2d if is_mean else MaxPool2d)(pool, cpu)

    check(stage, {"x": x}, pixels=out[1], exact=not is_mean)


@settings(max_examples=10, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (2, 20, 30, 70))),
    build=st.sampled_from([global_avg_pool2d, global_max_pool2d]),
)
def test_all_pixels(shape, build):
    x, cpu = random(*shape) + 30, native()
    x = x.astype("float16")
    lanes, out = image_lanes(shape[3]), image_lanes(1)
    panels = image_panels(x, lanes, junk=99).astype("float16")
    got = run_kernel(build(shape, lanes, out, cpu, DType.FLOAT16), [panels], (*shape[:2], out), cpu)
    is_mean = build is global_avg_pool2d
    want = x.mean((2, 3), dtype="float64") if is_mean else x.max((2, 3))
    # The sum of 2,100 numbers near 30 is 63,000: float16 has no digits left for the next one.
    np.testing.assert_array_equal(
        got, np.broadcast_to(want[..., None].astype("float16"), got.shape)
    )


@settings(max_examples=8, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (2, 4, 5, 50))),
    factors=st.tuples(st.integers(1, 3), st.integers(1, 4)),
)
def test_repeated_pixels(shape, factors):
    batch, channels, height, width = shape
    lanes = image_lanes(width), image_lanes(width * factors[1])
    check(
        lambda dtype, cpu: Upsample2d(
            Tensor(batch, height, channels, lanes[0], dtype), width, factors, lanes[1], cpu
        ),
        {"x": image_panels(random(*shape), lanes[0], junk=99)},
        pixels=width * factors[1],
        exact=True,
    )


@settings(max_examples=8, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (2, 4, 6, 50))),
    out_height=st.integers(1, 12),
    wider=st.integers(0, 70),
    coordinates=st.sampled_from(COORDINATES),
)
def test_interpolated_pixels(shape, out_height, wider, coordinates):
    size = (out_height, shape[3] + wider)
    lanes = {"lanes_in": image_lanes(shape[3]), "lanes_out": image_lanes(size[1])}
    check(
        lambda dtype, cpu: Bilinear2d(
            Resize2d(*shape, *size, coordinates, **lanes, dtype=dtype), cpu
        ),
        {"x": image_panels(random(*shape), lanes["lanes_in"], junk=99)},
        pixels=size[1],
    )


def test_whole_vectors():
    spr = replace(profile("x86-64-v4"), mcpu="sapphirerapids", mattr=("-prefer-256-bit",))
    tensor = Tensor(1, 3, 8, 64, DType.FLOAT16)
    code = assembly(kernel(Elementwise("maximum", tensor, [(3, 8, 64), (8, 1)], spr)), spr)
    assert "vmaxph" in code and "%zmm" in code


def test_vectors_of_neon():
    cpu = profile("rpi5")
    tensor = Tensor(1, 3, 8, 16, DType.FLOAT16)
    code = assembly(kernel(Elementwise("add", tensor, [(3, 8, 16), (8, 1)], cpu)), cpu)
    assert ".8h" in code and "fcvt" not in code

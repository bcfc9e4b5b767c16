from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import FLOATS, DType
from tvm_sparse.schedules.operators.layer_norm import LayerNorm, layer_norm
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.kernels import relative_rms, run_in_columns, run_kernel


def run(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float) -> np.ndarray:
    cpu, dtype = native(), DType(str(x.dtype))
    return run_kernel(layer_norm(*x.shape, epsilon, cpu, dtype), [x, gamma, beta], x.shape, cpu)


def assert_near(got: np.ndarray, want: np.ndarray) -> None:
    if got.dtype == "float16":
        assert relative_rms(got, want) <= 1e-3
    else:
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def reference(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float) -> np.ndarray:
    x = x.astype("float64")
    centred = x - x.mean(1, keepdims=True)
    scale = np.sqrt((centred**2).mean(1, keepdims=True) + epsilon)
    return centred / scale * gamma[:, None] + beta[:, None]


def operands(rows: int, channels: int, lanes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(channels)
    shapes = ((rows, channels, lanes), (channels,), (channels,))
    return tuple(random.standard_normal(s).astype("float32") for s in shapes)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 3),
    channels=st.integers(1, 40),
    lanes=st.sampled_from([4, 8, 16, 32, 48]),
    epsilon=st.sampled_from([1e-12, 1e-5, 0.1]),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_against_numpy(rows, channels, lanes, epsilon, dtype):
    x, gamma, beta = operands(rows, channels, lanes)
    x = x.astype(dtype)
    assert_near(run(x, gamma, beta, epsilon), reference(x, gamma, beta, epsilon))


@pytest.mark.parametrize(("images", "lanes", "step"), [(1, 32, 1), (3, 24, 2)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_in_columns(images, lanes, step, dtype):
    x, gamma, beta = operands(7 * images, 13, lanes)
    x, cpu = x.astype(dtype), native()
    stage = LayerNorm(Tensor(images, 7, 13, lanes, dtype), 1e-5, cpu)
    named = {"x": x, "gamma": gamma, "beta": beta}
    got = run_in_columns(stage, named, ColumnPlan(5, step), cpu)
    assert_near(got, reference(x, gamma, beta, 1e-5))


def test_mean_much_larger_than_deviation():
    x, gamma, beta = operands(2, 768, 32)
    x += np.float32(10_000)
    np.testing.assert_allclose(
        run(x, gamma, beta, 1e-5), reference(x, gamma, beta, 1e-5), rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("mean", [3, 1000])
def test_few_digits_beside_the_mean(mean):
    """The statistics of float16 panels lose nothing that the panels hold."""
    x, gamma, beta = operands(2, 768, 32)
    x = (x + mean).astype("float16")
    assert_near(run(x, gamma, beta, 1e-5), reference(x, gamma, beta, 1e-5))


@pytest.mark.parametrize("channel", [0, 1, 96, 767])
def test_channels_far_from_the_others(channel):
    x, gamma, beta = operands(2, 768, 32)
    x[:, channel] = 1000
    gamma[channel] = 1e-3  # as in trained networks, so that the others can be seen
    x = x.astype("float16")
    assert_near(run(x, gamma, beta, 1e-5), reference(x, gamma, beta, 1e-5))


@pytest.mark.parametrize("dtype", FLOATS)
def test_constant_lane_gives_beta(dtype):
    x, gamma, beta = operands(1, 64, 32)
    x[:, :, 3] = 0.7
    x[:, :, 5], x[:, 3, 7] = np.inf, np.nan
    got = run(x.astype(dtype), gamma, beta, 1e-5)[0]
    np.testing.assert_allclose(got[:, 3], beta, rtol=1e-3 if dtype == "float16" else 1e-4)
    assert np.isnan(got[:, [5, 7]]).all()


@pytest.mark.parametrize(("cpu", "register"), [("haswell", "ymm"), ("skylake-avx512", "zmm")])
def test_uses_whole_vectors(cpu, register):
    cpu = profile(cpu)
    func = layer_norm(4, 64, 2 * cpu.vector_lanes(), 1e-5, cpu).with_attr("global_symbol", "main")
    library = tvm.compile(tvm.IRModule({"main": func}), target=cpu.to_target())
    assert f"%{register}" in library.mod.inspect_source("s")

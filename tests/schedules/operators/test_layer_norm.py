from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.schedules.operators.layer_norm import LayerNorm, layer_norm
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.kernels import run_in_columns


def run(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float) -> np.ndarray:
    func = layer_norm(*x.shape, epsilon, native()).with_attr("global_symbol", "main")
    library = tvm.compile(tvm.IRModule({"main": func}), target=native().to_target())
    y = tvm.runtime.tensor(np.full(x.shape, np.nan, "float32"))
    library["main"](*(tvm.runtime.tensor(a) for a in (x, gamma, beta)), y)
    return y.numpy()


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
)
def test_against_numpy(rows, channels, lanes, epsilon):
    x, gamma, beta = operands(rows, channels, lanes)
    want = reference(x, gamma, beta, epsilon)
    np.testing.assert_allclose(run(x, gamma, beta, epsilon), want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("images", "lanes", "step"), [(1, 32, 1), (3, 24, 2)])
def test_rows_in_columns(images, lanes, step):
    arrays = operands(7 * images, 13, lanes)
    stage = LayerNorm(Tensor(images, 7, 13, lanes), 1e-5, native())
    named = dict(zip(("x", "gamma", "beta"), arrays, strict=True))
    got = run_in_columns(stage, named, ColumnPlan(5, step))
    np.testing.assert_allclose(got, reference(*arrays, 1e-5), rtol=2e-5, atol=2e-5)


def test_mean_much_larger_than_deviation():
    x, gamma, beta = operands(2, 768, 32)
    x += np.float32(10_000)
    np.testing.assert_allclose(
        run(x, gamma, beta, 1e-5), reference(x, gamma, beta, 1e-5), rtol=0, atol=2e-5
    )


def test_constant_lane_gives_beta():
    x, gamma, beta = operands(1, 64, 32)
    x[:, :, 3] = 0
    np.testing.assert_allclose(run(x, gamma, beta, 1e-5)[0, :, 3], beta, rtol=1e-6)


@pytest.mark.parametrize(("cpu", "register"), [("haswell", "ymm"), ("skylake-avx512", "zmm")])
def test_uses_whole_vectors(cpu, register):
    cpu = profile(cpu)
    func = layer_norm(4, 64, 2 * cpu.vector_lanes(), 1e-5, cpu).with_attr("global_symbol", "main")
    library = tvm.compile(tvm.IRModule({"main": func}), target=cpu.to_target())
    assert f"%{register}" in library.mod.inspect_source("s")

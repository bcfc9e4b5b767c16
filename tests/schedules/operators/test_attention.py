from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import CpuProfile, native, profile
from tvm_sparse.dtypes import DType
from tvm_sparse.schedules.operators.attention import Attention, attention
from tvm_sparse.testing.kernels import relative_rms, run_in_columns, run_kernel

FLOAT_MIN = np.finfo("float32").min


def as_panels(x: np.ndarray, lanes: int) -> np.ndarray:
    """Lay out ``[batch, tokens, channels]`` as panels, with junk in the padded lanes."""
    batch, tokens, channels = x.shape
    padded = np.full((batch, -(-tokens // lanes) * lanes, channels), 6e4, x.dtype)
    padded[:, :tokens] = x
    return np.ascontiguousarray(padded.reshape(-1, lanes, channels).transpose(0, 2, 1))


def from_panels(x: np.ndarray, batch: int, tokens: int) -> np.ndarray:
    return x.transpose(0, 2, 1).reshape(batch, -1, x.shape[1])[:, :tokens]


def run(q, k, v, bias, heads: int, lanes: int, scale: float, cpu=None) -> np.ndarray:
    """Return the result of the kernel for panels of the operands' type."""
    batch, tokens, channels = q.shape
    sizes = (batch, tokens, k.shape[1], heads, channels // heads, lanes)
    shape, dtype = None if bias is None else bias.shape, DType(str(q.dtype))
    cpu = cpu or native()
    arrays = [as_panels(x, lanes) for x in (q, k, v)] + ([] if bias is None else [bias])
    func = attention(*sizes, scale, shape, cpu, dtype)
    return from_panels(run_kernel(func, arrays, arrays[0].shape, cpu), batch, tokens)


def assert_near(got: np.ndarray, want: np.ndarray) -> None:
    if got.dtype == "float16":
        assert relative_rms(got, want) <= 5e-3
    else:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


def reference(q, k, v, bias, heads: int, scale: float) -> np.ndarray:
    def split(x: np.ndarray) -> np.ndarray:
        batch, tokens = x.shape[:2]
        return x.astype("float64").reshape(batch, tokens, heads, -1).transpose(0, 2, 1, 3)

    scores = split(q) @ split(k).transpose(0, 1, 3, 2) * scale
    if bias is not None:
        # In float32, where the most negative number swallows the score, as it does in a runtime.
        scores = (scores.astype("float32") + bias).astype("float64")
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ split(v)).transpose(0, 2, 1, 3).reshape(q.shape)


def operands(
    batch: int, tokens: int, keys: int, channels: int, dtype: str = "float32"
) -> list[np.ndarray]:
    random = np.random.default_rng(tokens + channels)
    shapes = [(batch, n, channels) for n in (tokens, keys, keys)]
    return [random.standard_normal(s).astype(dtype) for s in shapes]


def without_tiles() -> CpuProfile:
    """This machine without its matrix unit."""
    mattr = tuple(feature for feature in native().mattr if "amx" not in feature)
    return dataclasses.replace(native(), mattr=mattr)


HALF = DType.FLOAT16
both_types = pytest.mark.parametrize("dtype", ["float32", "float16"])


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 2),
    tokens=st.integers(1, 70),
    keys=st.none() | st.integers(1, 50),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from([1, 5, 16, 33, 64]),
    lanes=st.sampled_from([8, 16, 32]),
    bias=st.none() | st.tuples(st.booleans(), st.booleans(), st.booleans()),
    dtype=st.sampled_from(["float32", "float16"]),
    cpu=st.sampled_from([native(), without_tiles()]),
)
def test_against_numpy(batch, tokens, keys, heads, head_dim, lanes, bias, dtype, cpu):
    keys = keys or tokens
    q, k, v = operands(batch, tokens, keys, heads * head_dim, dtype)
    if bias is not None:
        shape = [e if own else 1 for e, own in zip((batch, heads, tokens), bias, strict=True)]
        bias = np.random.default_rng(1).standard_normal((*shape, keys)).astype("float32")
    scale = 0.3 if dtype == "float32" else head_dim**-0.5
    got = run(q, k, v, bias, heads, lanes, scale, cpu)
    assert_near(got, reference(q, k, v, bias, heads, scale))


@pytest.mark.skipif(not native().has_matrix_unit, reason="this processor has no AMX")
@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 2),
    tokens=st.integers(1, 150),
    keys=st.none() | st.integers(1, 150),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from([32, 64, 96]),
    lanes=st.sampled_from([32, 64, 96]),
    bias=st.none() | st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_matrix_unit(batch, tokens, keys, heads, head_dim, lanes, bias):
    keys = keys or tokens
    q, k, v = operands(batch, tokens, keys, heads * head_dim, "float16")
    if bias is not None:
        shape = [e if own else 1 for e, own in zip((batch, heads, tokens), bias, strict=True)]
        bias = np.random.default_rng(1).standard_normal((*shape, keys)).astype("float32")
    scale = head_dim**-0.5
    with_tiles = attention(batch, tokens, keys, heads, head_dim, lanes, scale, None, native(), HALF)
    assert "tdpbf16ps" in with_tiles.script()
    assert_near(run(q, k, v, bias, heads, lanes, scale), reference(q, k, v, bias, heads, scale))


@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_tiles_mask_keys_and_keep_nan(head_dim):
    """On the matrix unit where there is one, and without it in any case."""
    q, k, v = operands(1, 90, 75, head_dim, "float16")
    bias = np.zeros((1, 1, 90, 75), "float32")
    bias[..., 50:] = FLOAT_MIN
    bias[:, :, 3] = FLOAT_MIN
    bias[:, :, 4] = -np.inf
    v[0, 60:] = 1000  # only query 3 may see them
    want = reference(q, k, v, np.where(np.isinf(bias), 0, bias), 1, head_dim**-0.5)
    q[0, 7, 1] = np.nan
    for cpu in (native(), without_tiles()):
        got = run(q, k, v, bias, 1, 32, head_dim**-0.5, cpu)
        assert np.isnan(got[0, [4, 7]]).all()
        seen = np.delete(np.arange(90), [3, 4, 7])  # query 3 sees the mean of all keys
        assert relative_rms(got[:, seen], want[:, seen]) <= 5e-3
        assert relative_rms(got[:, 3], want[:, 3]) <= 5e-3


@pytest.mark.parametrize(
    ("batch", "tokens", "lanes", "bias_shape"),
    [(1, 70, 16, None), (2, 41, 8, (2, 1, 1, 37)), (2, 41, 8, (1, 3, 41, 37))],
)
@both_types
def test_rows_in_columns(batch, tokens, lanes, bias_shape, dtype):
    keys, heads, head_dim = 37, 3, 5
    q, k, v = operands(batch, tokens, keys, heads * head_dim, dtype)
    bias = None
    if bias_shape:
        bias = np.random.default_rng(1).standard_normal(bias_shape).astype("float32")
    sizes = (batch, tokens, keys, heads, head_dim, lanes)
    cpu = native()
    stage = Attention(*sizes, 0.3, bias_shape, cpu, DType(dtype))
    arrays = [as_panels(x, lanes) for x in (q, k, v)] + ([] if bias is None else [bias])
    named = dict(zip(("q", "k", "v", "bias"), arrays, strict=False))
    got = from_panels(run_in_columns(stage, named, ColumnPlan(3, 2), cpu), batch, tokens)
    assert_near(got, reference(q, k, v, bias, heads, 0.3))


@pytest.mark.parametrize("queries", [1, 37])
@both_types
def test_masked_keys_as_exporters_write_them(queries, dtype):
    q, k, v = operands(1, 37, 37, 16, dtype)
    bias = np.zeros((1, 1, queries, 37), "float32")
    bias[..., 20:] = FLOAT_MIN
    bias[:, :, 0] = FLOAT_MIN if queries > 1 else bias[:, :, 0]  # a query that sees no key at all
    got = run(q, k, v, bias, 2, 16, 0.25)
    assert_near(got, reference(q, k, v, bias, 2, 0.25))
    open_keys = run(q, k[:, :20], v[:, :20], None, 2, 16, 0.25)
    assert_near(got[:, 1:], open_keys[:, 1:].astype("float64"))


@both_types
def test_causal_mask_of_infinities(dtype):
    q, k, v = operands(1, 19, 19, 8, dtype)
    bias = np.triu(np.full((1, 1, 19, 19), -np.inf, "float32"), 1)
    got = run(q, k, v, bias, 1, 8, 1.0)
    assert_near(got, reference(q, k, v, bias, 1, 1.0))


@both_types
@pytest.mark.parametrize("queries", [1, 19])
def test_nan_and_queries_that_see_no_key(queries, dtype):
    q, k, v = operands(1, 19, 19, 8, dtype)
    clean = run(q, k, v, None, 1, 8, 1.0)
    q[0, 3, 5] = np.nan
    bias = np.zeros((1, 1, queries, 19), "float32")
    bias[:, :, :: 19 - queries + 1] = -np.inf if queries == 1 else 0
    if queries > 1:
        bias[0, 0, 7] = -np.inf
    got = run(q, k, v, bias, 1, 8, 1.0)
    assert np.isnan(got[0, 3]).all()
    assert np.isnan(got[0, 7]).all()
    if queries > 1:
        np.testing.assert_array_equal(np.delete(got, [3, 7], 1), np.delete(clean, [3, 7], 1))


def test_large_scores_do_not_overflow():
    q, k, v = operands(1, 16, 16, 8)
    got = run(100 * q, 100 * k, v, None, 1, 16, 1.0)
    want = reference(100 * q, 100 * k, v, None, 1, 1.0)
    np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("tokens", "keys"), [(70, 70), (20, 50), (50, 20)])
def test_hints_change_nothing(tokens, keys):
    q, k, v = operands(2, tokens, keys, 48)
    cpu = dataclasses.replace(native(), l2_bytes=4096)
    got = run(q, k, v, None, 3, 16, 0.3, cpu)
    np.testing.assert_allclose(got, reference(q, k, v, None, 3, 0.3), rtol=1e-4, atol=2e-5)


def test_heads_are_cut_before_queries():
    assert Attention(2, 64, 64, 3, 5, 16, 0.3, None, native()).row_parts() == 2


@pytest.mark.parametrize(("batch", "asks"), [(1, False), (8, True)])
def test_asks_for_keys_and_values_beyond_the_private_caches(batch, asks):
    cpu = dataclasses.replace(profile("skylake-avx512"), cores=2)  # 1 MB of L2 each
    func = attention(batch, 128, 128, 12, 64, 64, 0.125, None, cpu)
    assert ("llvm.prefetch" in func.script()) == asks


@pytest.mark.parametrize(("cpu", "register"), [("haswell", "ymm"), ("skylake-avx512", "zmm")])
def test_accumulators_stay_in_registers(cpu, register):
    cpu = profile(cpu)
    lanes = 2 * cpu.vector_lanes()
    func = attention(1, 128, 128, 2, 64, lanes, 0.125, (1, 1, 1, 128), cpu)
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    source = tvm.compile(module, target=cpu.to_target()).mod.inspect_source("s")
    products = re.findall(rf"vfmadd231ps\s+(\S+?), %{register}\d+, %{register}\d+", source)
    assert len(products) >= cpu.vector_registers
    assert not [p for p in products if p.endswith("(%rsp)")]


def test_builds_for_neon():
    target = tvm.target.Target(
        {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}
    )
    cpu = profile("haswell")
    func = attention(1, 20, 20, 2, 16, 8, 0.25, None, cpu).with_attr("global_symbol", "main")
    assert "fmla" in tvm.compile(tvm.IRModule({"main": func}), target=target).mod.inspect_source(
        "s"
    )

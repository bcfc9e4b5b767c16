from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.schedules.operators.attention import Attention, attention
from tvm_sparse.testing.kernels import run_in_columns

FLOAT_MIN = np.finfo("float32").min


def as_panels(x: np.ndarray, lanes: int) -> np.ndarray:
    """Lay out ``[batch, tokens, channels]`` as panels, with junk in the padded lanes."""
    batch, tokens, channels = x.shape
    padded = np.full((batch, -(-tokens // lanes) * lanes, channels), 1e30, "float32")
    padded[:, :tokens] = x
    return np.ascontiguousarray(padded.reshape(-1, lanes, channels).transpose(0, 2, 1))


def from_panels(x: np.ndarray, batch: int, tokens: int) -> np.ndarray:
    return x.transpose(0, 2, 1).reshape(batch, -1, x.shape[1])[:, :tokens]


def run(q, k, v, bias, heads: int, lanes: int, scale: float, cpu=None) -> np.ndarray:
    batch, tokens, channels = q.shape
    sizes = (batch, tokens, k.shape[1], heads, channels // heads, lanes)
    shape = None if bias is None else bias.shape
    func = attention(*sizes, scale, shape, cpu or native()).with_attr("global_symbol", "main")
    library = tvm.compile(tvm.IRModule({"main": func}), target=native().to_target())
    arrays = [as_panels(x, lanes) for x in (q, k, v)] + ([] if bias is None else [bias])
    o = tvm.runtime.tensor(np.zeros(arrays[0].shape, "float32"))
    library["main"](*(tvm.runtime.tensor(x) for x in arrays), o)
    return from_panels(o.numpy(), batch, tokens)


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


def operands(batch: int, tokens: int, keys: int, channels: int) -> list[np.ndarray]:
    random = np.random.default_rng(tokens + channels)
    shapes = [(batch, n, channels) for n in (tokens, keys, keys)]
    return [random.standard_normal(s).astype("float32") for s in shapes]


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 2),
    tokens=st.integers(1, 70),
    keys=st.none() | st.integers(1, 50),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from([1, 5, 16, 33, 64]),
    lanes=st.sampled_from([8, 16, 32]),
    bias=st.none() | st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_against_numpy(batch, tokens, keys, heads, head_dim, lanes, bias):
    keys = keys or tokens
    q, k, v = operands(batch, tokens, keys, heads * head_dim)
    if bias is not None:
        shape = [e if own else 1 for e, own in zip((batch, heads, tokens), bias, strict=True)]
        bias = np.random.default_rng(1).standard_normal((*shape, keys)).astype("float32")
    got = run(q, k, v, bias, heads, lanes, 0.3)
    np.testing.assert_allclose(got, reference(q, k, v, bias, heads, 0.3), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("batch", "tokens", "lanes", "bias_shape"),
    [(1, 70, 16, None), (2, 41, 8, (2, 1, 1, 37)), (2, 41, 8, (1, 3, 41, 37))],
)
def test_rows_in_columns(batch, tokens, lanes, bias_shape):
    keys, heads, head_dim = 37, 3, 5
    q, k, v = operands(batch, tokens, keys, heads * head_dim)
    bias = None
    if bias_shape:
        bias = np.random.default_rng(1).standard_normal(bias_shape).astype("float32")
    sizes = (batch, tokens, keys, heads, head_dim, lanes)
    stage = Attention(*sizes, 0.3, bias_shape, native())
    arrays = [as_panels(x, lanes) for x in (q, k, v)] + ([] if bias is None else [bias])
    named = dict(zip(("q", "k", "v", "bias"), arrays, strict=False))
    got = from_panels(run_in_columns(stage, named, ColumnPlan(3, 2)), batch, tokens)
    np.testing.assert_allclose(got, reference(q, k, v, bias, heads, 0.3), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("queries", [1, 37])
def test_masked_keys_as_exporters_write_them(queries):
    q, k, v = operands(1, 37, 37, 16)
    bias = np.zeros((1, 1, queries, 37), "float32")
    bias[..., 20:] = FLOAT_MIN
    bias[:, :, 0] = FLOAT_MIN if queries > 1 else bias[:, :, 0]  # a query that sees no key at all
    got = run(q, k, v, bias, 2, 16, 0.25)
    np.testing.assert_allclose(got, reference(q, k, v, bias, 2, 0.25), rtol=1e-4, atol=2e-5)
    open_keys = run(q, k[:, :20], v[:, :20], None, 2, 16, 0.25)
    np.testing.assert_allclose(got[:, 1:], open_keys[:, 1:], rtol=1e-4, atol=2e-5)


def test_causal_mask_of_infinities():
    q, k, v = operands(1, 19, 19, 8)
    bias = np.triu(np.full((1, 1, 19, 19), -np.inf, "float32"), 1)
    got = run(q, k, v, bias, 1, 8, 1.0)
    np.testing.assert_allclose(got, reference(q, k, v, bias, 1, 1.0), rtol=1e-4, atol=2e-5)


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

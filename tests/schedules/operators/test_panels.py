from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import FLOATS
from tvm_sparse.schedules.operators.panels import from_panels, panel_rows, to_panels
from tvm_sparse.testing.kernels import run_kernel


def as_panels(x: np.ndarray, lanes: int) -> np.ndarray:
    batch, tokens, channels = x.shape
    padded = np.zeros((batch, -(-tokens // lanes) * lanes, channels), "float32")
    padded[:, :tokens] = x
    return padded.reshape(-1, lanes, channels).transpose(0, 2, 1)


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 70),
    channels=st.integers(1, 50),
    lanes=st.sampled_from([4, 8, 16, 32]),
    dtype=st.sampled_from(FLOATS),
)
def test_both_directions(batch, tokens, channels, lanes, dtype):
    x = np.random.default_rng(0).standard_normal((batch, tokens, channels)).astype("float32")
    x = x.astype(dtype).astype("float32")
    sizes = (batch, tokens, channels, lanes)
    want = as_panels(x, lanes).astype(dtype)
    shape = (panel_rows(batch, tokens, lanes), channels, lanes)
    got = run_kernel(to_panels(*sizes, native(), dtype), [x], shape)
    np.testing.assert_array_equal(got, want)
    assert got.dtype == dtype
    junk = np.where(as_panels(np.ones_like(x), lanes) == 1, want, 7).astype(dtype)
    got = run_kernel(from_panels(*sizes, native(), dtype), [junk], x.shape)
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize(("cpu", "register"), [("haswell", "ymm"), ("skylake-avx512", "zmm")])
def test_tiles_are_transposed_in_registers(cpu, register):
    cpu = profile(cpu)
    func = to_panels(1, 64, 64, 2 * cpu.vector_lanes(), cpu).with_attr("global_symbol", "main")
    lib = tvm.compile(tvm.IRModule({"main": func}), target=cpu.to_target())
    source = lib.mod.inspect_source("s")
    assert re.search(rf"(vunpcklp|vpermt2p|vshufp)\w+\s.*%{register}", source)
    assert not re.search(r"vgather|vinsertps", source)

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.schedules.operators.panels import from_panels, panel_rows, to_panels


def run(func: tvm.tirx.PrimFunc, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    y = tvm.runtime.tensor(np.full(shape, np.nan, "float32"))
    tvm.compile(module, target=native().to_target())["main"](tvm.runtime.tensor(x), y)
    return y.numpy()


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
)
def test_both_directions(batch, tokens, channels, lanes):
    x = np.random.default_rng(0).standard_normal((batch, tokens, channels)).astype("float32")
    sizes = (batch, tokens, channels, lanes)
    want = as_panels(x, lanes)
    got = run(to_panels(*sizes, native()), x, (panel_rows(batch, tokens, lanes), channels, lanes))
    np.testing.assert_array_equal(got, want)
    junk = np.where(as_panels(np.ones_like(x), lanes) == 1, want, 7).astype("float32")
    np.testing.assert_array_equal(run(from_panels(*sizes, native()), junk, x.shape), x)


@pytest.mark.parametrize(("cpu", "register"), [("haswell", "ymm"), ("skylake-avx512", "zmm")])
def test_tiles_are_transposed_in_registers(cpu, register):
    cpu = profile(cpu)
    func = to_panels(1, 64, 64, 2 * cpu.vector_lanes(), cpu).with_attr("global_symbol", "main")
    lib = tvm.compile(tvm.IRModule({"main": func}), target=cpu.to_target())
    source = lib.mod.inspect_source("s")
    assert re.search(rf"(vunpcklp|vpermt2p|vshufp)\w+\s.*%{register}", source)
    assert not re.search(r"vgather|vinsertps", source)

import re

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import FLOATS, DType
from tvm_sparse.formats.dense import pack_linear
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.linear import linear
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.linear import LINEAR_FAMILY

FULL = Epilogue(bias=True, residual=True, activation="relu")


def default_tile(n, cpu):
    return LINEAR_FAMILY.default(Layer(Linear(1, cpu.vector_lanes(), n, 1)), cpu)


def build(func, cpu):
    return tvm.compile(
        tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), cpu.to_target()
    )


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 70),
    k=st.one_of(st.integers(1, 80), st.integers(120, 200)),
    rows=st.integers(1, 4),
    vectors=st.integers(1, 4),
    epilogue=st.sampled_from([Epilogue(), FULL, Epilogue(bias=True), Epilogue(residual=True)]),
    dtype=st.sampled_from(FLOATS),
)
def test_any_size(n, k, rows, vectors, epilogue, dtype):
    cpu = native()
    lanes = 8 * vectors
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((n, k)).astype(dtype)
    x = rng.standard_normal((rows, k, lanes)).astype(dtype)
    expected = np.einsum("nk,rkl->rnl", weight.astype("float64"), x)
    inputs = [x, pack_linear(weight, default_tile(n, cpu).channels)]
    if epilogue.bias:
        inputs.append(rng.standard_normal(n).astype(dtype))
        expected += inputs[-1][:, None]
    if epilogue.residual:
        inputs.append(rng.standard_normal((rows, n, lanes)).astype(dtype))
        expected += inputs[-1]
    if epilogue.activation == "relu":
        expected = np.maximum(expected, 0)
    y = tvm.runtime.tensor(np.full((rows, n, lanes), np.nan, dtype))
    build(linear(rows, lanes, n, k, epilogue, cpu, dtype), cpu)["main"](
        *map(tvm.runtime.tensor, inputs), y
    )
    lost = 1e-5 if dtype == DType.FLOAT32 else 6e-3
    np.testing.assert_allclose(y.numpy(), expected, atol=lost * max(1, np.abs(expected).max()))


def test_lanes_must_be_whole_vectors():
    with pytest.raises(ValueError, match="multiple of 4"):
        linear(1, 22, 8, 8, Epilogue(), profile("haswell"))


@pytest.mark.parametrize(("name", "register"), [("skylake-avx512", "zmm"), ("haswell", "ymm")])
def test_register_tile_is_not_spilled(name, register):
    cpu = profile(name)
    tile = default_tile(768, cpu)
    func = linear(4, 2 * cpu.vector_lanes(), 768, 96, Epilogue(bias=True), cpu)
    assembly = build(func, cpu).mod.inspect_source("s")
    loops = [b for b in re.split(r"^\.LBB\w+:", assembly, flags=re.MULTILINE) if "vfmadd" in b]
    assert loops
    for loop in loops:
        body = loop[: loop.rindex("vfmadd")]
        assert len(re.findall(rf"vfmadd.*%{register}", loop)) % (tile.channels * tile.vectors) == 0
        assert "rsp" not in body, "accumulators are spilled"

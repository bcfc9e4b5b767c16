import dataclasses
import re

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import FLOATS, DType
from tvm_sparse.formats.sparse import PackedSparse, SparseTiling
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.sparse_linear import SparseLinear, sparse_linear
from tvm_sparse.sizes.tensor import Tensor

PLAIN = Epilogue()
FULL = Epilogue(bias=True, residual=True, activation="relu")


def build(func, cpu):
    return tvm.compile(
        tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), cpu.to_target()
    )


def check(weight, rows, lanes, tiling, epilogue, seed=0, cpu=None, dtype=DType.FLOAT32):
    """Compare the kernel with NumPy in double precision."""
    n, k = weight.shape
    cpu = cpu or native()
    rng = np.random.default_rng(seed)
    packed = PackedSparse.from_dense(weight, lanes, tiling)
    kernel = build(sparse_linear(rows, lanes, n, k, tiling, epilogue, cpu, dtype), cpu)
    x = rng.standard_normal((rows, k, lanes)).astype(dtype)
    values = packed.values.astype(dtype)
    expected = np.einsum("nk,rkl->rnl", weight.astype(dtype).astype("float64"), x)
    inputs = [x, packed.indptr, packed.channels, packed.offsets, values]
    if epilogue.bias:
        inputs.append(rng.standard_normal(n).astype(dtype))
        expected += inputs[-1][:, None]
    if epilogue.residual:
        inputs.append(rng.standard_normal((rows, n, lanes)).astype(dtype))
        expected += inputs[-1]
    if epilogue.activation == "relu":
        expected = np.maximum(expected, 0)
    y = tvm.runtime.tensor(np.full((rows, n, lanes), np.nan, dtype))
    kernel["main"](*map(tvm.runtime.tensor, inputs), y)
    assert_near(y.numpy(), expected, dtype)


def assert_near(got, expected, dtype):
    """Compare with a result in double precision by what sums in a type may lose."""
    largest = max(1, np.abs(expected).max())
    if dtype == DType.FLOAT32:
        np.testing.assert_allclose(got, expected, atol=1e-5 * largest)
    else:
        np.testing.assert_allclose(got, expected, atol=6e-3 * largest)
        assert np.sqrt(np.mean((got - expected) ** 2)) <= 2.5e-3 * max(1, np.std(expected))


def random_weight(n, k, density, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, k)) * (rng.random((n, k)) < density)).astype("float32")


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 70),
    k=st.integers(1, 150),
    density=st.sampled_from([0.0, 0.02, 0.2, 0.7, 1.0]),
    rows=st.integers(1, 4),
    vectors=st.integers(1, 6),
    group=st.sampled_from([3, 6, 8]),
    k_block=st.sampled_from([13, 64, 1000]),
    split=st.booleans(),
    tile=st.integers(1, 3),
    epilogue=st.sampled_from([PLAIN, FULL, Epilogue(bias=True), Epilogue(residual=True)]),
    dtype=st.sampled_from(FLOATS),
)
def test_any_size(n, k, density, rows, vectors, group, k_block, split, tile, epilogue, dtype):
    n = 2 * n if split else n
    tiling = SparseTiling(group, k_block, chunks=1 + split, window=24, rows=tile)
    lanes = 8 * vectors
    check(random_weight(n, k, density), rows, lanes, tiling, epilogue, dtype=dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("k_block", [200, 100, 70])
def test_epilogue_comes_once_however_many_k_blocks(k_block, dtype):
    tiling, lanes = SparseTiling(4, k_block, chunks=2), 2 * native().vector_lanes(dtype)
    check(random_weight(24, 200, 0.3), 2, lanes, tiling, FULL, dtype=dtype)


def test_blocks_of_half_precision_are_summed_up_from_zero():
    rng = np.random.default_rng(0)
    weight, lanes = np.abs(rng.standard_normal((8, 4096))).astype("float32") * 0.01, 64
    with_blocks, at_once = (
        half_error(weight, lanes, SparseTiling(4, k_block)) for k_block in (256, 1024)
    )
    assert with_blocks < 0.6 * at_once


def half_error(weight, lanes, tiling):
    """Return the relative error of a product of numbers of one sign."""
    n, k = weight.shape
    packed = PackedSparse.from_dense(weight, lanes, tiling)
    x = np.random.default_rng(1).random((1, k, lanes)).astype("float16")
    values = packed.values.astype("float16")
    y = tvm.runtime.tensor(np.zeros((1, n, lanes), "float16"))
    func = sparse_linear(1, lanes, n, k, tiling, PLAIN, native(), DType.FLOAT16)
    inputs = (x, packed.indptr, packed.channels, packed.offsets, values)
    build(func, native())["main"](*map(tvm.runtime.tensor, inputs), y)
    expected = np.einsum("nk,rkl->rnl", weight.astype("float16").astype("float64"), x)
    return np.sqrt(np.mean((y.numpy() - expected) ** 2)) / np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("k_block", [200, 70])
def test_hints_change_nothing(k_block):
    cpu = dataclasses.replace(native(), l2_bytes=4096)
    tiling = SparseTiling(4, k_block, chunks=2, rows=2)
    check(random_weight(24, 200, 0.3), 5, native().vector_lanes(), tiling, FULL, cpu=cpu)


@pytest.mark.parametrize("k_block", [256, 64])
def test_asks_for_residuals_where_outputs_do_not_fit(k_block):
    def hints(rows, epilogue):
        tiling, cpu = SparseTiling(4, k_block), profile("skylake-avx512")
        func = sparse_linear(rows, 64, 256, 256, tiling, epilogue, cpu)
        return func.script().count("llvm.prefetch")

    assert hints(32, FULL) == hints(32, PLAIN) + 1  # 2 MB of outputs
    assert hints(8, FULL) == hints(8, PLAIN)


@pytest.mark.parametrize(
    ("dtype", "group", "shared"),
    [(DType.FLOAT16, 8, 4), (DType.FLOAT16, 5, 4), (DType.FLOAT16, 12, 2), (DType.FLOAT32, 8, 1)],
)
def test_steps_of_a_cache_line_share_a_hint(dtype, group, shared):
    tiling, cpu = SparseTiling(group, 256), profile("sapphirerapids")
    script = sparse_linear(2, 64, 64, 256, tiling, PLAIN, cpu, dtype).script()
    assert "llvm.prefetch" in script
    assert re.findall(r"if \S+ % T.int64\((\d+)\) == T.int64\(0\)", script) == (
        [str(shared)] if shared > 1 else []
    )


def test_kernel_is_shared_by_weights_of_one_shape():
    cpu = native()
    tiling, lanes = SparseTiling(4, 32), cpu.vector_lanes()
    kernel = build(sparse_linear(1, lanes, 8, 64, tiling, PLAIN, cpu), cpu)
    x = np.random.default_rng(0).standard_normal((1, 64, lanes)).astype("float32")
    for density in (0.1, 0.6):
        weight = random_weight(8, 64, density)
        packed = PackedSparse.from_dense(weight, lanes, tiling)
        y = tvm.runtime.tensor(np.zeros((1, 8, lanes), "float32"))
        arrays = (x, packed.indptr, packed.channels, packed.offsets, packed.values)
        kernel["main"](*map(tvm.runtime.tensor, arrays), y)
        np.testing.assert_allclose(y.numpy()[0], weight @ x[0], atol=1e-4)


def test_nan_weight_reaches_its_channel_only():
    cpu = native()
    weight = random_weight(8, 16, 0.5)
    weight[3, 5] = np.nan
    tiling, lanes = SparseTiling(4, 16), cpu.vector_lanes()
    packed = PackedSparse.from_dense(weight, lanes, tiling)
    kernel = build(sparse_linear(1, lanes, 8, 16, tiling, PLAIN, cpu), cpu)
    y = tvm.runtime.tensor(np.zeros((1, 8, lanes), "float32"))
    x = np.ones((1, 16, lanes), "float32")
    arrays = (x, packed.indptr, packed.channels, packed.offsets, packed.values)
    kernel["main"](*map(tvm.runtime.tensor, arrays), y)
    assert np.isnan(y.numpy()[0, 3]).all()
    assert not np.isnan(np.delete(y.numpy()[0], 3, axis=0)).any()


def test_lanes_must_be_whole_vectors():
    with pytest.raises(ValueError, match="multiple of 4"):
        sparse_linear(1, 22, 8, 8, SparseTiling(4, 8), PLAIN, profile("skylake-avx512"))


def test_wide_lanes_are_visited_in_pieces_where_registers_are_few():
    cpu = profile("haswell")
    func = sparse_linear(1, 4 * cpu.vector_lanes(), 64, 64, SparseTiling(4, 64), PLAIN, cpu)
    loops = hot_loops(build(func, cpu).mod.inspect_source("s"))
    assert len(loops) == 2
    assert not any("rsp" in loop for loop in loops)


def hot_loops(assembly):
    """Return the basic blocks that hold multiply-adds with a memory operand."""
    blocks = re.split(r"^\.LBB\w+:", assembly, flags=re.MULTILINE)
    return [b for b in blocks if re.search(r"vfmadd\w+ps\s+-?\d*\(", b)]


@pytest.mark.parametrize(
    ("name", "register", "vectors"),
    [("skylake-avx512", "zmm", 2), ("skylake-avx512", "zmm", 4), ("haswell", "ymm", 2)],
)
def test_inner_loop_stays_in_vector_registers(name, register, vectors):
    cpu = profile(name)
    tiling, lanes = SparseTiling(4, 384), vectors * cpu.vector_lanes()
    func = sparse_linear(4, lanes, 64, 768, tiling, Epilogue(bias=True), cpu)
    loops = hot_loops(build(func, cpu).mod.inspect_source("s"))
    assert loops
    for loop in loops:
        assert len(re.findall(rf"vfmadd\w+ps\s+-?\d*\(.*%{register}", loop)) == 4 * vectors
        assert "rsp" not in loop, "accumulators or pointers are spilled"


def test_inner_loop_of_half_precision_loads_four_offsets_at_once():
    cpu = profile("sapphirerapids")
    func = sparse_linear(4, 64, 64, 768, SparseTiling(8, 256), PLAIN, cpu, DType.FLOAT16)
    blocks = re.split(r"^\.LBB\w+:", build(func, cpu).mod.inspect_source("s"), flags=re.MULTILINE)
    loops = [block for block in blocks if re.search(r"vfmadd\w+ph\s+-?\d*\(", block)]
    assert loops
    for loop in loops:
        assert len(re.findall(r"vfmadd\w+ph\s+-?\d*\(.*%zmm", loop)) == 16
        assert len(re.findall(r"movq\s+-?\d*\(", loop)) == 2
        assert "rsp" not in loop, "accumulators or pointers are spilled"


@pytest.mark.parametrize(("chunks", "row_parts"), [(1, 0), (2, 3)])
def test_rows_are_cut_before_channels(chunks, row_parts):
    layer = SparseLinear(
        Tensor(1, 6, 64, 64), 64, SparseTiling(4, 64, chunks, rows=2), PLAIN, native()
    )
    assert layer.row_parts() == row_parts

"""Sparse quantized linear layers against exact sums of integers."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvm_mca import inner_loop

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import profile
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.int8_layer import packed_int8
from tvm_sparse.schedules.operators.int8_linear import Int8Linear, int8_linear
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.kernels import assembly, run_in_columns, run_kernel
from tvm_sparse.testing.quantized import QUANTIZATIONS, UNITS, cpu_of, in_floats, linear_sums
from tvm_sparse.tilings.families import sparse_or_dense
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_int8 import SPARSE_INT8_LINEAR_FAMILY, SparseInt8LinearTiling

PLAIN = Epilogue()
FULL = Epilogue(bias=True, residual=True, activation="relu")
VECTOR_UNITS = [unit for unit, (_, _, is_matrix_unit) in UNITS.items() if not is_matrix_unit]


def running(unit, cores=2):
    cpu = cpu_of(unit, cores)
    if cpu is None:
        pytest.skip(f"this processor has no {unit}")
    return cpu


def layer_of(tensor, n, density=1.0):
    problem = Linear(tensor.images * tensor.rows, tensor.lanes, n, tensor.channels, tensor.dtype)
    return Layer(problem, density, is_quantized=True, word_density=density)


def operands(tensor, n, steps, tiling, cpu, zeros, block=4):
    """Return the operands of a layer by name, and its exact result."""
    rng = np.random.default_rng(0)
    values = rng.integers(-128, 128, (n, tensor.channels))
    kept = rng.random((n, -(-tensor.channels // block))) >= zeros
    values = (values * np.repeat(kept, block, axis=1)[:, : tensor.channels]).astype("int8")
    x = (rng.standard_normal(tensor.shape) * 60 * steps.scale).astype(tensor.dtype)
    scales = rng.random(n).astype("float32")
    *packed, corrections = packed_int8(values, steps, tiling, cpu)
    names = ("x", "indptr", "channels", "offsets", "values", "scales", "corrections")
    arrays = dict(zip(names, (x, *packed, scales, corrections), strict=True))
    return arrays, in_floats(linear_sums(x, values, steps), scales)


@pytest.mark.parametrize("unit", VECTOR_UNITS)
@settings(max_examples=5, deadline=None)
@given(
    n=st.integers(1, 70),
    k=st.integers(1, 150),
    rows=st.integers(1, 5),
    lanes=st.sampled_from([8, 16, 48, 64, 112]),
    steps=st.sampled_from(QUANTIZATIONS),
    zeros=st.sampled_from([0.0, 0.8, 1.0]),
    block=st.sampled_from([1, 4]),
    cores=st.integers(1, 3),
)
def test_sums_are_exact(unit, n, k, rows, lanes, steps, zeros, block, cores):
    cpu, tensor = running(unit, cores), Tensor(1, rows, k, lanes)
    tiling = SPARSE_INT8_LINEAR_FAMILY.default(layer_of(tensor, n), cpu)
    arrays, want = operands(tensor, n, steps, tiling, cpu, zeros, block)
    func = int8_linear(tensor, n, steps, PLAIN, cpu, tiling)
    got = run_kernel(func, list(arrays.values()), want.shape, cpu)
    np.testing.assert_array_equal(got, want)


def test_every_tiling_computes_the_same():
    cpu, tensor, steps = running("AVX2"), Tensor(1, 2, 90, 64), QUANTIZATIONS[0]
    tilings = list(SPARSE_INT8_LINEAR_FAMILY.tilings(layer_of(tensor, 50), cpu))
    assert {tiling.columns for tiling in tilings} == {1, 2, 4}
    for tiling in tilings:
        arrays, want = operands(tensor, 50, steps, tiling, cpu, 0.8)
        func = int8_linear(tensor, 50, steps, PLAIN, cpu, tiling)
        got = run_kernel(func, list(arrays.values()), want.shape, cpu)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("unit", VECTOR_UNITS)
def test_what_follows_the_product(unit):
    cpu, tensor, steps, n = running(unit), Tensor(1, 3, 300, 32), QUANTIZATIONS[0], 100
    tiling = SPARSE_INT8_LINEAR_FAMILY.default(layer_of(tensor, n), cpu)
    arrays, sums = operands(tensor, n, steps, tiling, cpu, 0.8)
    rng = np.random.default_rng(1)
    arrays["scales"] /= 1e5
    bias = rng.standard_normal(n).astype("float32")
    residual = rng.standard_normal(sums.shape).astype("float32")
    want = np.maximum(sums / 1e5 + bias[:, None] + residual, 0)
    func = int8_linear(tensor, n, steps, FULL, cpu, tiling)
    got = run_kernel(func, [*arrays.values(), bias, residual], want.shape, cpu)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("unit", VECTOR_UNITS)
def test_in_columns(unit):
    cpu, tensor, steps = running(unit), Tensor(2, 5, 37, 16), QUANTIZATIONS[1]
    tiling = SPARSE_INT8_LINEAR_FAMILY.default(layer_of(tensor, 40), cpu)
    stage = Int8Linear(tensor, 40, steps, PLAIN, cpu, tiling, 0.2)
    arrays, want = operands(tensor, 40, steps, tiling, cpu, 0.8)
    np.testing.assert_array_equal(run_in_columns(stage, arrays, ColumnPlan(3, 2), cpu), want)


@pytest.mark.parametrize(
    ("target", "instruction"),
    [("cascadelake", "vpdpbusd"), ("skylake-avx512", "vpmaddwd"), ("rpi5", "sdot")],
)
def test_instructions_of_targets(target, instruction):
    cpu, tensor = profile(target), Tensor(1, 2, 64, 64)
    tiling = SPARSE_INT8_LINEAR_FAMILY.default(layer_of(tensor, 48), cpu)
    func = int8_linear(tensor, 48, QUANTIZATIONS[0], PLAIN, cpu, tiling)
    assert instruction in assembly(func, cpu)


def test_words_decide_between_the_kernels():
    """Single zeros leave hardly any word empty; blocks of four inputs leave as many as zeros."""
    cpu, problem = profile("cascadelake"), Linear(2, 64, 768, 768)
    in_blocks = sparse_or_dense(Layer(problem, 0.2, True, 0.2), cpu)
    alone = sparse_or_dense(Layer(problem, 0.5, True, 0.94), cpu)
    assert in_blocks.sparse and not alone.sparse
    assert in_blocks.dense_cycles == alone.dense_cycles > 1.6 * in_blocks.sparse_cycles


def test_what_is_refused():
    cpu, family = profile("cascadelake"), SPARSE_INT8_LINEAR_FAMILY
    assert "not quantized" in family.refusal(Layer(Linear(2, 16, 48, 64)), cpu)
    assert "no dot products" in family.refusal(layer_of(Tensor(1, 2, 64, 16), 48), profile("rpi4"))
    far = layer_of(Tensor(1, 1, 1 << 18, 16), 48)
    assert "out of reach" in family.refusal(far, cpu)
    wide = layer_of(Tensor(1, 1, 12_000, 64), 48)
    assert family.default(wide, cpu) == SparseInt8LinearTiling(12, 2)


def test_arm_takes_words_and_offsets_from_shared_loads():
    cpu, tensor = profile("rpi5"), Tensor(1, 2, 96, 64)
    tiling = SPARSE_INT8_LINEAR_FAMILY.default(layer_of(tensor, 48, 0.2), cpu)
    text = assembly(int8_linear(tensor, 48, QUANTIZATIONS[1], PLAIN, cpu, tiling), cpu)
    loop = inner_loop(text, "sdot")
    sums = [line for line in loop if line.startswith("sdot")]
    assert len(sums) == tiling.group * tiling.columns
    assert all(re.search(r"\.4b\[\d\]$", line) for line in sums)
    assert not [line for line in loop if re.match(r"ld1r|ldrh|prfm", line) or "[sp" in line]

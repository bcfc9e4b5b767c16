"""Quantized linear layers on a few rows, against exact sums of integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import profile
from tvm_sparse.formats.quantization import Quantization
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.int8_rows import int8_row_linear, pack_int8_rows
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.testing.kernels import assembly, run_kernel
from tvm_sparse.testing.quantized import UNITS, cpu_of, linear_sums, words_of
from tvm_sparse.tilings.int8_rows import INT8_ROW_FAMILY
from tvm_sparse.tilings.integers import word_form
from tvm_sparse.tilings.layer import Layer

FULL = Epilogue(bias=True, residual=True, activation="relu")


def layer_of(problem):
    return Layer(problem, is_quantized=True, is_dynamic=True)


@pytest.mark.parametrize("unit", [unit for unit in UNITS if not UNITS[unit][2]])
@settings(max_examples=5, deadline=None)
@given(
    rows=st.integers(1, 9),
    n=st.integers(16, 200),
    k=st.integers(1, 300),
    zero=st.integers(0, 255),
    density=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_sums_are_exact(unit, rows, n, k, zero, density):
    cpu, steps = cpu_of(unit), Quantization(0.03, zero, 0, 255)
    if cpu is None:
        pytest.skip(f"this processor has no {unit}")
    problem = Linear(rows, 1, n, k)
    layer = layer_of(problem)
    if INT8_ROW_FAMILY.refusal(layer, cpu):
        pytest.skip("its words are those of the matrix unit")
    tiling = INT8_ROW_FAMILY.default(layer, cpu)
    rng = np.random.default_rng(0)
    values = (rng.integers(-128, 128, (n, k)) * (rng.random((n, k)) < density)).astype("int8")
    x = (rng.standard_normal((rows, k, 1)) * 2).astype("float32")
    words, numbers = words_of(x, steps, word_form(cpu))
    scales, bias = rng.random(n).astype("float32") / 1e3, rng.random(n).astype("float32")
    residual = rng.standard_normal((rows, n)).astype("float32")
    weight, corrections = pack_int8_rows(values, tiling, cpu)
    operands = [words[..., 0], weight, scales, corrections, numbers, bias, residual]
    got = run_kernel(int8_row_linear(problem, tiling, FULL, cpu), operands, (rows, n), cpu)
    sums = linear_sums(x, values, steps)[..., 0].astype("float32")
    want = np.maximum(sums * (scales * numbers[0]) + bias + residual, 0)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize(
    ("target", "instruction"),
    [
        ("sapphirerapids", "vpdpbusd"),
        ("skylake-avx512", "vpmaddwd"),
        ("x86-64-v3", "vpmaddwd"),
        ("rpi5", "sdot"),
    ],
)
def test_instructions_of_targets(target, instruction):
    cpu, problem = profile(target), Linear(1, 1, 64, 100)
    tiling = INT8_ROW_FAMILY.default(layer_of(problem), cpu)
    assert instruction in assembly(int8_row_linear(problem, tiling, Epilogue(), cpu), cpu)


def test_what_is_refused():
    cpu, problem = profile("sapphirerapids"), Linear(1, 1, 64, 100)
    assert "words" in INT8_ROW_FAMILY.refusal(Layer(problem, is_quantized=True), cpu)
    assert "fill" in INT8_ROW_FAMILY.refusal(layer_of(Linear(1, 1, 9, 100)), cpu)
    assert "one lane" in INT8_ROW_FAMILY.refusal(layer_of(Linear(1, 16, 64, 100)), cpu)
    assert "no dot products" in INT8_ROW_FAMILY.refusal(layer_of(problem), profile("rpi4"))

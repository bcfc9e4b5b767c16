"""Quantized linear layers against exact sums of integers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import profile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.quantization import Quantization, RoundedBefore, shifts_of
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.int8_layer import packed_int8
from tvm_sparse.schedules.operators.int8_linear import Int8Linear, int8_linear
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.kernels import assembly, run_in_columns, run_kernel
from tvm_sparse.testing.quantized import (
    QUANTIZATIONS,
    UNITS,
    cpu_of,
    in_floats,
    linear_sums,
    words_of,
)
from tvm_sparse.tilings.int8_linear import AMX_INT8_LINEAR_FAMILY, INT8_LINEAR_FAMILY
from tvm_sparse.tilings.integers import dots_of, word_form
from tvm_sparse.tilings.layer import Layer

PLAIN = Epilogue()
FULL = Epilogue(bias=True, residual=True, activation="relu")


def tiling_of(unit, tensor, n, cpu):
    family = AMX_INT8_LINEAR_FAMILY if UNITS[unit][2] else INT8_LINEAR_FAMILY
    problem = Linear(tensor.images * tensor.rows, tensor.lanes, n, tensor.channels, tensor.dtype)
    layer = Layer(problem, is_quantized=True)
    assert not family.refusal(layer, cpu)
    return family.default(layer, cpu)


def operands(tensor, n, steps, tiling, cpu, density=1.0):
    """Return the operands of a layer by name, and its exact result."""
    rng = np.random.default_rng(0)
    values = rng.integers(-128, 128, (n, tensor.channels))
    values = (values * (rng.random(values.shape) < density)).astype("int8")
    x = (rng.standard_normal(tensor.shape) * 60 * steps.scale).astype(tensor.dtype)
    if steps.tie:
        x = (np.rint(x / steps.scale * 2) / 2 * steps.scale).astype(tensor.dtype)
    scales = rng.random(n).astype("float32")
    packed, corrections = packed_int8(values, steps, tiling, cpu)
    arrays = {"x": x, "weight": packed, "scales": scales, "corrections": corrections}
    return arrays, in_floats(linear_sums(x, values, steps), scales)


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=4, deadline=None)
@given(
    n=st.integers(1, 70),
    k=st.integers(1, 150),
    rows=st.integers(1, 5),
    lanes=st.sampled_from([8, 16, 48, 64]),
    steps=st.sampled_from(QUANTIZATIONS),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    cores=st.integers(1, 3),
)
def test_sums_are_exact(unit, n, k, rows, lanes, steps, density, cores):
    cpu = cpu_of(unit, cores)
    if cpu is None:
        pytest.skip(f"this processor has no {unit}")
    tensor = Tensor(1, rows, k, lanes)
    tiling = tiling_of(unit, tensor, n, cpu)
    arrays, want = operands(tensor, n, steps, tiling, cpu, density)
    func = int8_linear(tensor, n, steps, PLAIN, cpu, tiling)
    got = run_kernel(func, list(arrays.values()), want.shape, cpu)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("unit", ["AMX", "VNNI"])
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT16])
@pytest.mark.parametrize(("n", "k"), [(100, 200), (1700, 70), (800, 1100)])
def test_what_follows_the_product(unit, dtype, n, k):
    """Several parts of the inputs and groups of channels, and the epilogue."""
    cpu, steps = cpu_of(unit), QUANTIZATIONS[0]
    if cpu is None:
        pytest.skip(f"this processor has no {unit}")
    tensor = Tensor(1, 3, k, 32, dtype)
    tiling = tiling_of(unit, tensor, n, cpu)
    arrays, sums = operands(tensor, n, steps, tiling, cpu)
    rng = np.random.default_rng(1)
    arrays["scales"] /= 1e5
    bias = rng.standard_normal(n).astype(dtype)
    residual = rng.standard_normal(sums.shape).astype(dtype)
    want = np.maximum(sums / 1e5 + bias.astype("float32")[:, None] + residual, 0)
    func = int8_linear(tensor, n, steps, FULL, cpu, tiling)
    got = run_kernel(func, [*arrays.values(), bias, residual], want.shape, cpu)
    bound = 1e-6 if dtype == DType.FLOAT32 else 1e-3
    np.testing.assert_allclose(got, want, rtol=bound, atol=bound * np.abs(want).max())


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("n", "k", "lanes"), [(33, 131, 8), (40, 64, 48), (1700, 70, 32)])
def test_words_of_run_time(unit, n, k, lanes):
    """Scale and zero point are operands, and the epilogue follows the sums as it does elsewhere."""
    cpu, steps = cpu_of(unit), Quantization(0.03, 77, 0, 255)
    if cpu is None:
        pytest.skip(f"this processor has no {unit}")
    tensor = Tensor(1, 3, k, lanes)
    tiling = tiling_of(unit, tensor, n, cpu)
    arrays, _ = operands(tensor, n, steps, tiling, cpu)
    values = np.random.default_rng(0).integers(-128, 128, (n, k)).astype("int8")
    packed, corrections = packed_int8(values, None, tiling, cpu)
    words, given = words_of(arrays["x"], steps, word_form(cpu))
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(n).astype("float32")
    sums = linear_sums(arrays["x"], values, steps).astype("float32")
    want = sums * (arrays["scales"] * given[0])[:, None] + bias[:, None]
    source = replace(tensor, channels=words.shape[1], dtype=DType.WORDS)
    rounded, epilogue = RoundedBefore(k, DType.FLOAT32), Epilogue(bias=True)
    func = int8_linear(source, n, rounded, epilogue, cpu, tiling)
    inputs = [words, packed, arrays["scales"], corrections, given, bias]
    got = run_kernel(func, inputs, want.shape, cpu)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize(("n", "k", "lanes"), [(33, 131, 8), (40, 66, 48), (900, 1100, 32)])
def test_weights_that_do_not_fit_in_bytes(unit, is_given, n, k, lanes):
    """Distances of uint8 weights from zero points; some channels need no shift."""
    cpu, steps = cpu_of(unit), Quantization(0.03, 77, 0, 255)
    if cpu is None:
        pytest.skip(f"this processor has no {unit}")
    tensor, rng = Tensor(1, 3, k, lanes), np.random.default_rng(0)
    tiling = tiling_of(unit, tensor, n, cpu)
    arrays, _ = operands(tensor, n, steps, tiling, cpu)
    zeros = np.resize([0, 255, 128, 100, 160], (n, 1))
    values = (rng.integers(0, 256, (n, k)) - zeros).astype("int16")
    is_shifted = UNITS[unit][2] or dots_of(cpu).per_word == 4
    packed, corrections = packed_int8(values, None if is_given else steps, tiling, cpu)
    words, given = words_of(arrays["x"], steps, word_form(cpu))
    inputs = [arrays["x"], packed, arrays["scales"], corrections]
    inputs += [shifts_of(values)] if is_shifted else []
    want, source, rounded = linear_sums(arrays["x"], values, steps), tensor, steps
    if is_given:
        inputs, want = [words, *inputs[1:], given], want * given[0]
        source = replace(tensor, channels=words.shape[1], dtype=DType.WORDS)
        rounded = RoundedBefore(k, DType.FLOAT32)
    func = int8_linear(source, n, rounded, PLAIN, cpu, tiling, is_shifted=is_shifted)
    got = run_kernel(func, inputs, want.shape, cpu)
    want = want * arrays["scales"][:, None]
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * np.abs(want).max())


def test_shifts_leave_bytes_and_zero():
    values = np.array([[-128, 127], [-255, 0], [0, 255], [-200, 55], [3, 5]], "int16")
    shifts = shifts_of(values)
    np.testing.assert_array_equal(shifts, [0, -127, 128, -72, 0])
    for array in (values, 0 * values):
        assert (array - shifts[:, None] >= -128).all()
        assert (array - shifts[:, None] <= 127).all()


@pytest.mark.parametrize("unit", UNITS)
def test_in_columns(unit):
    cpu, steps = cpu_of(unit), QUANTIZATIONS[1]
    if cpu is None:
        pytest.skip(f"this processor has no {unit}")
    tensor = Tensor(2, 5, 37, 16)
    tiling = tiling_of(unit, tensor, 40, cpu)
    stage = Int8Linear(tensor, 40, steps, PLAIN, cpu, tiling)
    arrays, want = operands(tensor, 40, steps, tiling, cpu)
    np.testing.assert_array_equal(run_in_columns(stage, arrays, ColumnPlan(3, 2), cpu), want)


@pytest.mark.parametrize(
    ("target", "instruction"),
    [
        ("sapphirerapids", "tdpbsud"),
        ("cascadelake", "vpdpbusd"),
        ("skylake-avx512", "vpmaddwd"),
        ("x86-64-v3", "vpmaddwd"),
        ("rpi5", "sdot"),
    ],
)
def test_instructions_of_targets(target, instruction):
    cpu, tensor = profile(target), Tensor(1, 2, 64, 64)
    layer = Layer(Linear(2, 64, 48, 64), is_quantized=True)
    families = (AMX_INT8_LINEAR_FAMILY, INT8_LINEAR_FAMILY)
    family = next(f for f in families if not f.refusal(layer, cpu))
    tiling = family.default(layer, cpu)
    text = assembly(int8_linear(tensor, 48, QUANTIZATIONS[0], PLAIN, cpu, tiling), cpu)
    assert instruction in text


@pytest.mark.parametrize("target", ["rpi4", "rpi3"])
def test_targets_without_such_instructions_are_refused(target):
    layer = Layer(Linear(2, 16, 48, 64), is_quantized=True)
    assert "no dot products" in INT8_LINEAR_FAMILY.refusal(layer, profile(target))


def test_a_layer_of_floats_is_refused():
    layer = Layer(Linear(2, 16, 48, 64))
    assert "not quantized" in INT8_LINEAR_FAMILY.refusal(layer, profile("sapphirerapids"))

"""Quantized convolutions against exact sums of integers."""

from dataclasses import replace

import numpy as np
import pytest

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.quantization import Quantization, RoundedBefore, shifts_of
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.int8_conv2d import Int8Conv2d, int8_conv2d
from tvm_sparse.schedules.operators.int8_layer import packed_int8
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.testing.kernels import run_in_columns, run_kernel
from tvm_sparse.testing.quantized import (
    QUANTIZATIONS,
    UNITS,
    conv2d_sums,
    cpu_of,
    in_floats,
    words_of,
)
from tvm_sparse.tilings.int8_conv2d import AMX_INT8_CONV2D_FAMILY, INT8_CONV2D_FAMILY
from tvm_sparse.tilings.integers import word_form
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_int8 import SPARSE_INT8_CONV2D_FAMILY

SAME = (1, 1, 1, 1)
SIZES = {
    "3x3": Conv2d(1, 10, 9, 13, 20, (3, 3), padding=SAME, lanes_in=16, lanes_out=16),
    "3x3 / 2": Conv2d(2, 7, 11, 21, 33, (3, 3), (2, 2), SAME, lanes_in=32, lanes_out=16),
    "7x7 / 2": Conv2d(1, 3, 20, 38, 16, (7, 7), (2, 2), (3, 3, 3, 3), lanes_in=48, lanes_out=32),
    "1x1": Conv2d(1, 37, 5, 16, 50, (1, 1), lanes_in=16, lanes_out=16),
    "1x1 / 2": Conv2d(1, 40, 14, 14, 24, (1, 1), (2, 2), lanes_in=16, lanes_out=8),
    "narrow": Conv2d(1, 24, 7, 7, 40, (3, 3), padding=SAME, lanes_in=8, lanes_out=8),
    "dilated": Conv2d(
        1, 5, 12, 20, 9, (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2), lanes_in=32, lanes_out=32
    ),
    "uneven": Conv2d(1, 6, 9, 18, 8, (2, 5), padding=(1, 0, 0, 3), lanes_in=32, lanes_out=32),
    "many": Conv2d(1, 80, 6, 6, 70, (3, 3), padding=SAME, lanes_in=8, lanes_out=8),
}


def family_of(unit):
    return AMX_INT8_CONV2D_FAMILY if UNITS[unit][2] else INT8_CONV2D_FAMILY


def operands(unit, problem, steps, cpu, zeros=None):
    """Return the tiling and the operands of a layer by name, and its exact result.

    A share of zeros makes the weight sparse.
    """
    family = family_of(unit) if zeros is None else SPARSE_INT8_CONV2D_FAMILY
    layer = Layer(problem, is_quantized=True)
    assert not family.refusal(layer, cpu)
    tiling, window = family.default(layer, cpu), family.window(problem, cpu)
    rng = np.random.default_rng(0)
    values = rng.integers(-128, 128, (problem.out_channels, problem.channels, *problem.kernel))
    values = (values * (rng.random(values.shape) >= (zeros or 0))).astype("int8")
    x = (rng.standard_normal(problem.input.shape) * 60 * steps.scale).astype(problem.dtype)
    scales = rng.random(problem.out_channels).astype("float32")
    *packed, corrections = packed_int8(window.matrix(values), steps, tiling, cpu)
    names = ("weight",) if zeros is None else ("indptr", "channels", "offsets", "values")
    arrays = {"x": x, **dict(zip(names, packed, strict=True)), "distances": window.offsets()}
    arrays |= {"scales": scales, "corrections": corrections}
    return tiling, arrays, in_floats(conv2d_sums(x, values, steps, problem), scales)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("size", SIZES)
def test_sums_are_exact(unit, size):
    cpu, problem = cpu_of(unit), SIZES[size]
    if cpu is None:
        pytest.skip(f"this processor has no {unit}")
    steps = QUANTIZATIONS[list(SIZES).index(size) % len(QUANTIZATIONS)]
    tiling, arrays, want = operands(unit, problem, steps, cpu)
    func = int8_conv2d(problem, steps, Epilogue(), cpu, tiling)
    got = run_kernel(func, list(arrays.values()), problem.output.shape, cpu)
    np.testing.assert_array_equal(got[..., : problem.out_width], want)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("size", SIZES)
def test_words_of_run_time(unit, size):
    """The image is padded with the zero point, which only an inference knows."""
    cpu, problem, steps = cpu_of(unit), SIZES[size], Quantization(0.03, 77, 0, 255)
    if cpu is None:
        pytest.skip(f"this processor has no {unit}")
    layer, family = Layer(problem, is_quantized=True, is_dynamic=True), family_of(unit)
    if family.refusal(layer, cpu):
        assert family.window(problem, cpu).pairs_pixels
        return
    tiling, arrays, want = operands(unit, problem, steps, cpu)
    x, zero = arrays.pop("x"), word_form(cpu).per_word == 4
    words, given = words_of(x, steps, word_form(cpu))
    arrays["corrections"] = arrays["corrections"] // (77 if zero else 1)
    rounded = RoundedBefore(problem.channels, problem.dtype)
    func = int8_conv2d(problem, rounded, Epilogue(), cpu, tiling)
    inputs = [words, *arrays.values(), given]
    got = run_kernel(func, inputs, problem.output.shape, cpu)
    want = want * given[0]
    np.testing.assert_allclose(got[..., : problem.out_width], want, rtol=1e-6, atol=1e-6)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("unit", ["AMX", "VNNI"])
@pytest.mark.parametrize("size", ["3x3 / 2", "narrow", "many"])
def test_weights_that_do_not_fit_in_bytes(unit, size):
    cpu, problem, steps = cpu_of(unit), SIZES[size], QUANTIZATIONS[0]
    if cpu is None:
        pytest.skip(f"this processor has no {unit}")
    tiling, arrays, _ = operands(unit, problem, steps, cpu)
    window, shape = family_of(unit).window(problem, cpu), (problem.channels, *problem.kernel)
    values = np.random.default_rng(1).integers(-150, 106, (problem.out_channels, *shape))
    values = values.astype("int16")
    packed, corrections = packed_int8(window.matrix(values), steps, tiling, cpu)
    arrays |= {"weight": packed, "corrections": corrections}
    func = int8_conv2d(problem, steps, Epilogue(), cpu, tiling, is_shifted=True)
    inputs = [*arrays.values(), shifts_of(values)]
    got = run_kernel(func, inputs, problem.output.shape, cpu)
    want = in_floats(conv2d_sums(arrays["x"], values, steps, problem), arrays["scales"])
    np.testing.assert_array_equal(got[..., : problem.out_width], want)


@pytest.mark.parametrize("unit", [unit for unit in UNITS if not UNITS[unit][2]])
@pytest.mark.parametrize(("size", "zeros"), [*((size, 0.8) for size in SIZES), ("3x3", 1.0)])
def test_sums_of_sparse_weights_are_exact(unit, size, zeros):
    cpu, problem, steps = cpu_of(unit), SIZES[size], QUANTIZATIONS[0]
    if cpu is None:
        pytest.skip(f"this processor has no {unit}")
    tiling, arrays, want = operands(unit, problem, steps, cpu, zeros)
    func = int8_conv2d(problem, steps, Epilogue(), cpu, tiling)
    got = run_kernel(func, list(arrays.values()), problem.output.shape, cpu)
    np.testing.assert_array_equal(got[..., : problem.out_width], want)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("unit", ["AMX", "VNNI"])
@pytest.mark.parametrize("size", ["3x3", "narrow"])
def test_half_precision_with_an_epilogue(unit, size):
    cpu, problem = cpu_of(unit), replace(SIZES[size], dtype=DType.FLOAT16)
    if cpu is None:
        pytest.skip(f"this processor has no {unit}")
    tiling, arrays, sums = operands(unit, problem, QUANTIZATIONS[0], cpu)
    arrays["scales"] /= 1e5
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(problem.out_channels).astype("float16")
    residual = rng.standard_normal(problem.output.shape).astype("float16")
    want = sums / 1e5 + bias.astype("float32")[:, None] + residual[..., : problem.out_width]
    epilogue = Epilogue(bias=True, residual=True, activation="relu")
    func = int8_conv2d(problem, QUANTIZATIONS[0], epilogue, cpu, tiling)
    got = run_kernel(func, [*arrays.values(), bias, residual], problem.output.shape, cpu)
    want = np.maximum(want, 0)
    np.testing.assert_allclose(got[..., : problem.out_width], want, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("size", ["3x3 / 2", "narrow"])
@pytest.mark.parametrize("zeros", [None, 0.8])
def test_in_columns(unit, size, zeros):
    cpu, problem, steps = cpu_of(unit), SIZES[size], QUANTIZATIONS[0]
    if cpu is None:
        pytest.skip(f"this processor has no {unit}")
    if zeros is not None and UNITS[unit][2]:
        pytest.skip("the matrix unit skips no zeros")
    tiling, arrays, want = operands(unit, problem, steps, cpu, zeros)
    stage = Int8Conv2d(problem, steps, Epilogue(), cpu, tiling)
    got = run_in_columns(stage, arrays, ColumnPlan(4, 2), cpu)
    np.testing.assert_array_equal(got[..., : problem.out_width], want)


def test_what_no_window_of_words_serves_is_refused():
    cpu, problem = cpu_of("AVX2"), SIZES["3x3"]
    grouped = Layer(replace(problem, groups=2), is_quantized=True)
    assert "groups" in INT8_CONV2D_FAMILY.refusal(grouped, cpu)
    wide = Layer(replace(problem, stride=(1, 3)), is_quantized=True)
    assert "3 pixels" in INT8_CONV2D_FAMILY.refusal(wide, cpu)

"""Kernels of a few rows and a weight of few bits, against NumPy."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.cpu.row_dots import expanding_dots, row_dots, shuffled_dots
from tvm_sparse.formats.bitmaps import BitmapBlocks
from tvm_sparse.formats.groups import GroupedBlocks
from tvm_sparse.formats.pairs import PairBlocks
from tvm_sparse.formats.sliding import SlidingBlocks
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.bitmap_row_linear import bitmap_row_linear
from tvm_sparse.schedules.operators.block_row_linear import block_row_linear
from tvm_sparse.schedules.operators.pair_row_linear import pair_row_linear
from tvm_sparse.schedules.operators.sliding_row_linear import sliding_row_linear
from tvm_sparse.sizes.block_linear import BlockLinear, Form
from tvm_sparse.testing.few_bits import random_codes, two_of_four
from tvm_sparse.testing.kernels import assembly, run_kernel
from tvm_sparse.tilings.block_forms import block_rows_family
from tvm_sparse.tilings.block_rows import BLOCK_ROW_LINEAR_FAMILY, BlockRowTiling
from tvm_sparse.tilings.layer import Layer

EPILOGUES = [Epilogue(), Epilogue(bias=True, residual=True, activation="relu"), Epilogue(True)]
LEVELS = {"int8": 127, "int16": 127 * 256 + 127}

needs_windows = pytest.mark.skipif(shuffled_dots(native()) is None, reason="no AVX2")
needs_bitmaps = pytest.mark.skipif(expanding_dots(native()) is None, reason="no VBMI2")
pytestmark = pytest.mark.skipif(row_dots(native()) is None, reason="no kernel for this CPU")


def rounded(x, block, activations):
    """Return rows rounded to integers of each block, as the kernel defines them."""
    rows, k = x.shape
    wide = np.pad(x, ((0, 0), (0, -k % block))).reshape(rows, -1, block)
    most = np.abs(wide).max(-1, keepdims=True)
    scale = most / np.float32(LEVELS[activations])
    inverse = np.float32(LEVELS[activations]) / np.where(most > 0, most, 1)
    return (np.rint(wide * inverse) * scale).reshape(rows, -1)[:, :k]


def result(weight, problem, tiling, epilogue, x, more=(), form=Form.DENSE):
    dots = block_rows_family(form).dots(native())
    if form == Form.PAIRS:
        packed = PairBlocks.pack(weight, "float32")
        kernel = pair_row_linear(problem, tiling, epilogue, dots)
        arrays = [packed.codes, packed.scales]
    elif form == Form.WINDOWS:
        packed = SlidingBlocks.pack(weight, "float32")
        kernel = sliding_row_linear(problem, tiling, epilogue, dots)
        arrays = [packed.codes, packed.windows, packed.starts, packed.scales]
    elif form == Form.BITMAPS:
        packed = BitmapBlocks.pack(weight, "float32")
        kernel = bitmap_row_linear(problem, tiling, epilogue, dots)
        arrays = [packed.masks, packed.codes, packed.starts, packed.scales]
    else:
        packed = GroupedBlocks.pack(weight, "float32")
        has_zeros = packed.zeros is not None
        kernel = block_row_linear(problem, tiling, epilogue, dots, has_zeros=has_zeros)
        arrays = [packed.codes, packed.scales, *([packed.zeros] if has_zeros else [])]
    return run_kernel(kernel, [x, *arrays, *more], (problem.rows, problem.n))


SIZES = {
    "n": st.integers(1, 50),
    "k": st.integers(1, 150),
    "rows": st.integers(1, 6),
    "activations": st.sampled_from(["int8", "int16"]),
    "density": st.sampled_from([0.0, 0.5, 1.0]),
    "tile": st.integers(1, 4),
    "jobs": st.integers(1, 3),
    "epilogue": st.sampled_from(EPILOGUES),
}


def check(weight, rows, activations, tile, jobs, epilogue, form=Form.DENSE):
    """Compare a kernel with NumPy, as far as numbers between two integers allow it."""
    n, k = weight.shape
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, k)).astype("float32")
    expected = rounded(x, weight.block, activations).astype("float64") @ weight.to_dense().T
    more = []
    if epilogue.bias:
        more.append(rng.standard_normal(n).astype("float32"))
        expected += more[-1]
    if epilogue.residual:
        more.append(rng.standard_normal((rows, n)).astype("float32"))
        expected += more[-1]
    if epilogue.activation == "relu":
        expected = np.maximum(expected, 0)
    problem = BlockLinear(rows, n, k, weight.bits, weight.block, activations, form)
    y = result(weight, problem, BlockRowTiling(tile, jobs), epilogue, x, more, form)
    step = np.abs(x).max() / LEVELS[activations] * np.abs(weight.to_dense()).max(initial=0)
    np.testing.assert_allclose(y, expected, atol=step + 1e-4 * max(1, np.abs(expected).max()))


@settings(max_examples=20, deadline=None)
@given(
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([8, 16, 24, 32, 128]),
    is_symmetric=st.booleans(),
    **SIZES,
)
def test_dense_of_any_size(n, k, bits, block, is_symmetric, density, **how):
    check(random_codes(n, k, bits, block, is_symmetric=is_symmetric, density=density), **how)


@settings(max_examples=12, deadline=None)
@given(block=st.sampled_from([16, 32, 128]), **SIZES)
def test_pairs_of_any_size(n, k, block, density, **how):
    weight = two_of_four(random_codes(n, k, 4, block, density=density))
    check(weight, **how, form=Form.PAIRS)


@needs_windows
@settings(max_examples=12, deadline=None)
@given(block=st.sampled_from([16, 24, 32, 128]), **SIZES)
def test_windows_of_any_size(n, k, block, density, **how):
    check(random_codes(n, k, 4, block, density=density), **how, form=Form.WINDOWS)


@needs_bitmaps
@settings(max_examples=12, deadline=None)
@given(block=st.sampled_from([8, 24, 32, 128]), **SIZES)
def test_bitmaps_of_any_size(n, k, block, density, **how):
    check(random_codes(n, k, 4, block, density=density), **how, form=Form.BITMAPS)


@pytest.mark.parametrize(
    "form",
    [
        Form.PAIRS,
        pytest.param(Form.WINDOWS, marks=needs_windows),
        pytest.param(Form.BITMAPS, marks=needs_bitmaps),
    ],
)
@pytest.mark.parametrize("code", [0, 15])
def test_the_largest_products_of_sparse_weights_do_not_overflow(form, code):
    weight = random_codes(16, 256, 4, 128)
    weight.codes[:] = code
    weight = two_of_four(weight)
    for sign in (1, -1):
        x = np.full((1, 256), sign, "float32")
        problem = BlockLinear(1, 16, 256, 4, 128, form=form)
        y = result(weight, problem, BlockRowTiling(1, 1), Epilogue(), x, form=form)
        np.testing.assert_allclose(y, x @ weight.to_dense().T, rtol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_products_do_not_overflow(bits):
    weight = random_codes(16, 256, bits, 128)
    weight.codes[:] = (1 << bits) - 1
    for sign in (1, -1):
        x = np.full((1, 256), sign, "float32")
        y = result(weight, BlockLinear(1, 16, 256, bits, 128), BlockRowTiling(1, 1), Epilogue(), x)
        np.testing.assert_allclose(y, x @ weight.to_dense().T, rtol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_not_hidden(value):
    x = np.ones((2, 64), "float32")
    x[1, 3] = value
    weight, problem = random_codes(16, 64, 4, 32), BlockLinear(2, 16, 64, 4, 32)
    y = result(weight, problem, BlockRowTiling(2, 1), Epilogue(), x)
    assert np.isfinite(y[0]).all() and np.isnan(y[1]).all()


def test_zeros_and_tiny_numbers():
    x = np.zeros((2, 64), "float32")
    x[1] = 1e-38
    weight, problem = random_codes(16, 64, 4, 32), BlockLinear(2, 16, 64, 4, 32)
    assert not result(weight, problem, BlockRowTiling(2, 1), Epilogue(), x).any()


@pytest.mark.parametrize(
    ("name", "instruction", "most_rows"),
    [("haswell", "vpmaddubsw", 1), ("icelake-server", "vpdpbusd", 4), ("rpi5", "sdot", 1)],
)
@pytest.mark.parametrize("bits", [4, 8])
def test_which_instruction_multiplies(name, instruction, most_rows, bits):
    cpu = profile(name)
    problem = BlockLinear(most_rows, 64, 256, bits, 32, "int8")
    tiling = BLOCK_ROW_LINEAR_FAMILY.default(Layer(problem), cpu)
    code = assembly(block_row_linear(problem, tiling, Epilogue(), row_dots(cpu)), cpu)
    blocks = re.split(r"^\.LBB\w+:", code, flags=re.MULTILINE)
    loops = [block for block in blocks if re.search(rf"\b{instruction}\b", block)]
    assert loops
    spilled = r"vmov\w+\s+%[yz]mm\d+, -?\d*\(%rsp\)|str\s+q\d+, \[sp"
    if bits == 4:  # LLVM loads all bytes of a block of 8 bits before the first product
        assert not any(re.search(spilled, loop) for loop in loops)

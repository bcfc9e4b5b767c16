"""Weights of 4 and 8 bits in blocks."""

import numpy as np
import pytest

from tvm_sparse.decoders import QuantizedRows, quantize_rows
from tvm_sparse.decoders.quantized_rows import stack_rows
from tvm_sparse.errors import InputError, ModelError


@pytest.mark.parametrize(("columns", "block"), [(64, 32), (100, 32), (1, 16), (256, 128)])
def test_rounding_is_close_and_keeps_zeros(columns, block):
    weight = np.random.default_rng(0).standard_normal((7, columns)).astype(np.float32)
    weight[weight < -0.3] = 0
    rounded = quantize_rows(weight, block)
    dense = rounded.dense()
    assert dense.shape == weight.shape
    assert (dense[weight == 0] == 0).all()
    step = np.repeat(np.abs(rounded.scales), block, axis=1)[:, :columns]
    assert (np.abs(dense - weight) <= step * 1.01).all()


def test_blocks_of_zeros_and_negative_extremes():
    weight = np.zeros((2, 32), np.float32)
    weight[1, 3] = -4
    rounded = quantize_rows(weight)
    np.testing.assert_array_equal(rounded.dense(), weight)
    np.testing.assert_array_equal(rounded.scales, [[0], [0.5]])


def test_what_cannot_be_rounded_is_refused():
    with pytest.raises(InputError, match="power of two"):
        quantize_rows(np.zeros((2, 32), np.float32), 24)
    for bad in (np.nan, np.inf, 1e9):
        with pytest.raises(ModelError, match="no int4"):
            quantize_rows(np.full((2, 32), bad, np.float32))


def test_zero_points_are_codes_of_zero():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (3, 3, 16)).astype(np.uint8)
    points = rng.integers(0, 16, (3, 3)).astype(np.uint8)
    weight = QuantizedRows(codes, np.ones((3, 3), np.float32), 90, 4, points)
    assert weight.packed_zero_points().shape == (3, 2)
    wanted = weight.unpacked().astype(int) - points[..., None]
    np.testing.assert_array_equal(weight.dense(), wanted.reshape(3, 96)[:, :90])
    order = np.array([2, 0, 1])
    np.testing.assert_array_equal(weight.take(order).dense(), weight.dense()[order])
    both = stack_rows([weight, weight.take(order)])
    np.testing.assert_array_equal(both.dense(), np.vstack([weight.dense(), weight.dense()[order]]))


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="no weight of 90 columns"):
        QuantizedRows(np.zeros((3, 2, 16), np.uint8), np.ones((3, 2), np.float32), 90)
    with pytest.raises(ModelError, match="infinite"):
        QuantizedRows(np.zeros((3, 3, 16), np.uint8), np.full((3, 3), np.inf, np.float32), 90)

"""Weights of few bits: packed in groups, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.formats.blocks import BlockCodes, misfit, unpacked
from tvm_sparse.formats.groups import GroupedBlocks, scales_type
from tvm_sparse.testing.few_bits import random_codes


@given(
    n=st.integers(1, 40),
    k=st.integers(1, 90),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([8, 16, 24, 32, 128]),
    is_symmetric=st.booleans(),
    density=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_packing_keeps_every_weight(n, k, bits, block, is_symmetric, density):
    weight = random_codes(n, k, bits, block, is_symmetric=is_symmetric, density=density)
    packed = GroupedBlocks.pack(weight, "float32")
    assert (packed.zeros is None) == weight.is_symmetric
    found = packed.unpack(n, k)
    for name in ("codes", "scales", "zeros"):
        np.testing.assert_array_equal(getattr(found, name), getattr(weight, name))
    np.testing.assert_array_equal(found.to_dense(), weight.to_dense())
    assert weight.density == np.count_nonzero(weight.to_dense()) / (n * k)


def test_a_weight_is_its_code_less_the_zero_times_the_scale():
    codes = np.array([[1, 2, 3, 15]], "uint8")
    scales, zeros = np.array([[0.5, 2]], "float32"), np.array([[1, 8]], "uint8")
    weight = BlockCodes(codes, scales, zeros, 4, 2)
    np.testing.assert_array_equal(weight.to_dense(), [[0, 0.5, -10, 14]])
    assert weight.density == 0.75


def test_blocks_that_no_word_ends_with_are_refused():
    with pytest.raises(ValueError, match="blocks of 12 channels are no multiple of 8"):
        GroupedBlocks.pack(random_codes(4, 24, 4, 12), "float32")


@pytest.mark.parametrize(
    ("scale", "may_round", "dtype"),
    [
        (0.25, False, "float16"),
        (0.1, False, "float32"),
        (0.1, True, "float16"),
        (1e-7, True, "float32"),
        (1e6, True, "float32"),
    ],
)
def test_scales_are_of_the_smallest_type_that_holds_them(scale, may_round, dtype):
    assert scales_type(np.full((2, 3), scale, "float32"), may_round=may_round) == dtype


def test_numbers_of_few_bits_begin_with_the_lowest():
    packed = np.array([[0x21, 0x43]], "uint8")
    np.testing.assert_array_equal(unpacked(packed, 4), [[1, 2, 3, 4]])
    np.testing.assert_array_equal(unpacked(packed, 8), packed)


SIZES = (20, 72, 4, 32)
ARRAYS = {
    "codes": np.zeros(20 * 3 * 16, "uint8"),
    "scales": np.zeros(60, "float32"),
    "zeros": np.zeros(20 * 2, "uint8"),
}


@pytest.mark.parametrize(
    ("sizes", "arrays", "message"),
    [
        (SIZES, {}, ""),
        (SIZES, {"zeros": None}, ""),
        (SIZES, {"zeros": np.zeros(60, "float32")}, ""),
        ((0, 72, 4, 32), {}, "no weight has N=0"),
        ((20, 72, 3, 32), {}, "bits=3"),
        ((20, 72, 4, 0), {}, "block_size=0"),
        ((21, 72, 4, 32), {}, "it has 960 bytes of codes, and N=21"),
        (SIZES, {"scales": np.zeros(7)}, "it has 7 scales"),
        (SIZES, {"zeros": np.zeros(60, "uint8")}, "it has 60 zero points"),
        (SIZES, {"codes": np.zeros(960, "float32")}, "its codes are float32"),
    ],
)
def test_arrays_that_are_no_weight(sizes, arrays, message):
    found = misfit(sizes, **{**ARRAYS, **arrays})
    assert message in found and bool(found) == bool(message)

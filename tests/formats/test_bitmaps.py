"""Weights with bitmaps: packed, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.formats.bitmaps import READ_BYTES, BitmapBlocks, can_have_bitmaps, code_bytes
from tvm_sparse.testing.few_bits import random_codes


@given(
    n=st.integers(1, 40),
    k=st.integers(1, 90),
    block=st.sampled_from([8, 24, 32, 128]),
    density=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_packing_keeps_every_weight(n, k, block, density):
    weight = random_codes(n, k, 4, block, density=density)
    assert can_have_bitmaps(weight)
    packed = BitmapBlocks.pack(weight, "float32")
    assert packed.codes.size == code_bytes(weight) + READ_BYTES
    found = packed.unpack(n, k)
    for name in ("codes", "scales", "zeros"):
        np.testing.assert_array_equal(getattr(found, name), getattr(weight, name))


@pytest.mark.parametrize(
    "weight",
    [
        random_codes(16, 64, 8, 32),
        random_codes(16, 48, 4, 12),
        random_codes(16, 64, 4, 32, is_symmetric=False),
    ],
    ids=["8 bits", "blocks of 12", "zeros of its own"],
)
def test_what_has_no_bitmaps(weight):
    assert not can_have_bitmaps(weight)


@pytest.mark.parametrize(("density", "bits"), [(0.0, 1.13), (0.3, 2.38), (0.5, 3.15)])
def test_bits_of_a_weight(density, bits):
    weight = random_codes(256, 1024, 4, 128, density=density)
    found = BitmapBlocks.pack(weight, "float16").nbytes * 8 / weight.codes.size
    assert abs(found - bits) < 0.02

"""Weights with two non-zeros of four: packed, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.formats.pairs import PairBlocks, is_pairs
from tvm_sparse.testing.few_bits import random_codes, two_of_four


@given(
    n=st.integers(1, 40),
    k=st.integers(1, 90),
    block=st.sampled_from([16, 32, 128]),
    density=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_packing_keeps_every_weight(n, k, block, density):
    weight = two_of_four(random_codes(n, k, 4, block, density=density))
    assert is_pairs(weight)
    found = PairBlocks.pack(weight, "float32").unpack(n, k)
    for name in ("codes", "scales", "zeros"):
        np.testing.assert_array_equal(getattr(found, name), getattr(weight, name))


@pytest.mark.parametrize(
    "weight",
    [
        random_codes(16, 64, 4, 32),
        two_of_four(random_codes(16, 64, 8, 32)),
        two_of_four(random_codes(16, 48, 4, 24)),
        random_codes(16, 64, 4, 32, is_symmetric=False, density=0.0),
    ],
    ids=["dense", "8 bits", "blocks of 24", "zeros of its own"],
)
def test_what_is_no_weight_of_pairs(weight):
    assert not is_pairs(weight)


def test_a_weight_needs_three_bits():
    weight = two_of_four(random_codes(64, 256, 4, 128))
    assert PairBlocks.pack(weight, "float16").nbytes * 8 / weight.codes.size == 3.125

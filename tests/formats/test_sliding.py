"""Sparse weights of four bits in windows: packed, and back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.formats.sliding import WINDOW, SlidingBlocks, can_slide
from tvm_sparse.testing.few_bits import random_codes


@given(
    n=st.integers(1, 40),
    k=st.integers(1, 300),
    block=st.sampled_from([16, 24, 32, 128, 256]),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
def test_packing_keeps_every_weight(n, k, block, density):
    weight = random_codes(n, k, 4, block, density=density)
    assert can_slide(weight)
    packed = SlidingBlocks.pack(weight, "float32")
    found = packed.unpack(n, k)
    for name in ("codes", "scales", "zeros"):
        np.testing.assert_array_equal(getattr(found, name), getattr(weight, name))
    # Loads of whole windows stay inside of their block.
    assert (packed.windows + WINDOW <= block).all()


def test_what_has_no_windows():
    assert not can_slide(random_codes(16, 64, 8, 32))
    assert not can_slide(random_codes(16, 64, 4, 32, is_symmetric=False))
    assert not can_slide(random_codes(16, 512, 4, 512))
    assert not can_slide(random_codes(16, 64, 4, 8))


def test_a_few_bits_are_enough():
    weight = random_codes(256, 1024, 4, 128, density=0.32)
    assert SlidingBlocks.pack(weight, "float16").nbytes * 8 / weight.codes.size < 3.6

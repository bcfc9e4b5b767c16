"""Weights in tiles of bfloat16 values."""

import numpy as np
import pytest

from tvm_sparse.formats.amx import from_bfloat16, pack_amx_linear, to_bfloat16


def test_bfloat16_rounds_to_the_nearest_even():
    step = 2.0**-7  # of bfloat16 between 1 and 2
    values = [1 + step / 2, 1 + 1.5 * step, 1 + 0.51 * step, -1 - step / 2, np.inf, -0.0]
    expected = [1, 1 + 2 * step, 1 + step, -1, np.inf, -0.0]
    rounded = from_bfloat16(to_bfloat16(np.array(values, "float32")))
    np.testing.assert_array_equal(rounded, np.array(expected, "float32"))
    assert np.signbit(rounded[-1])
    assert np.isnan(from_bfloat16(to_bfloat16(np.array([np.nan], "float32"))))


@pytest.mark.parametrize(
    ("n", "k", "inputs"),
    [(64, 96, 32), (16, 32, 64), (48, 160, 64), (1, 1, 32), (70, 147, 96), (33, 65, 256)],
)
def test_tiles_lie_in_the_order_of_the_loops(n, k, inputs):
    weight = np.random.default_rng(0).standard_normal((n, k)).astype("float32")
    packed = pack_amx_linear(weight, inputs)
    rows, columns = -(-n // 16), -(-k // 32)
    assert packed.shape == (rows * columns, 16, 32)
    found = np.full((rows * 16, columns * 32), np.nan, "float32")
    tiles = iter(from_bfloat16(packed))
    for first in range(0, columns, inputs // 32):
        for block in range(0, rows, 2):
            for column in range(first, min(first + inputs // 32, columns)):
                for row in range(block, min(block + 2, rows)):
                    place = found[row * 16 : row * 16 + 16, column * 32 : column * 32 + 32]
                    place[...] = next(tiles)
    assert next(tiles, None) is None
    np.testing.assert_array_equal(found[:n, :k], from_bfloat16(to_bfloat16(weight)))
    assert not found[n:].any() and not found[:, k:].any()

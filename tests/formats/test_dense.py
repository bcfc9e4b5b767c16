from __future__ import annotations

import numpy as np

from tvm_sparse.formats.dense import pack_conv2d, pack_linear


def test_packing_keeps_every_weight_and_fills_up_with_zeros():
    weight = np.arange(1, 7 * 5 + 1, dtype="float32").reshape(7, 5)
    packed = pack_linear(weight, 4)
    assert packed.shape == (2, 5, 4)
    unpacked = packed.transpose(0, 2, 1).reshape(8, 5)
    np.testing.assert_array_equal(unpacked[:7], weight)
    assert not unpacked[7:].any()


def test_no_block_has_channels_of_two_groups():
    weight = np.arange(1, 6 * 5 * 3 * 2 + 1, dtype="float32").reshape(6, 5, 3, 2)
    packed = pack_conv2d(weight, 2, 2)
    assert packed.shape == (4, 5, 3, 2, 2)
    unpacked = np.moveaxis(packed, -1, 1).reshape(2, 4, 5, 3, 2)
    np.testing.assert_array_equal(unpacked[:, :3].reshape(weight.shape), weight)
    assert not unpacked[:, 3:].any()

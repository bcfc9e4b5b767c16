import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.formats.sparse import OFFSET_UNIT, PackedSparse, SparseLayout, SparseTiling


def random_weight(n, k, density, seed):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, k)) * (rng.random((n, k)) < density)).astype("float32")


tilings = st.builds(
    SparseTiling,
    group=st.sampled_from([1, 4, 6, 12]),
    k_block=st.integers(1, 40),
    window=st.integers(1, 30),
)


@settings(max_examples=60, deadline=None)
@given(
    chunk=st.integers(1, 30),
    chunks=st.integers(1, 3),
    k=st.integers(1, 60),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    lanes=st.sampled_from([8, 16, 48, 64]),
    tiling=tilings,
    seed=st.integers(0, 9),
)
def test_packing_is_undone_by_unpacking(chunk, chunks, k, density, lanes, tiling, seed):
    n = chunk * chunks
    tiling = SparseTiling(tiling.group, tiling.k_block, chunks, tiling.window)
    weight = random_weight(n, k, density, seed)
    packed = PackedSparse.from_dense(weight, lanes, tiling)
    np.testing.assert_array_equal(packed.to_dense(), weight)
    assert packed.indptr.dtype == np.int32 and packed.channels.dtype == np.int32
    assert packed.offsets.dtype == np.uint16 and packed.values.dtype == np.float32
    assert len(packed.indptr) == packed.layout.groups + 1
    assert len(packed.channels) == packed.layout.groups * tiling.group
    assert len(packed.values) == len(packed.offsets) >= packed.indptr[-1] * tiling.group


def test_chunks_hold_their_own_channels_only():
    tiling = SparseTiling(group=4, k_block=16, chunks=3, window=5)
    packed = PackedSparse.from_dense(random_weight(30, 40, 0.4, 0), 16, tiling)
    channels = packed.channels.reshape(3, packed.layout.k_blocks, -1)
    for chunk in range(3):
        for block in range(packed.layout.k_blocks):
            assert set(channels[chunk, block]) == set(range(chunk * 10, chunk * 10 + 10))


def test_a_channel_never_appears_in_two_groups_of_a_k_block():
    # The kernel keeps partial sums in the output; a second group would count them twice.
    packed = PackedSparse.from_dense(random_weight(7, 9, 0.5, 1), 16, SparseTiling(4, 9))
    first, second = packed.channels.reshape(2, 4)
    assert not set(first) & set(second)


def test_channels_of_a_group_have_similar_counts():
    weight = random_weight(192, 400, 0.1, 3)
    packed = PackedSparse.from_dense(weight, 32, SparseTiling(4, 400, window=192))
    assert len(packed.values) < 1.05 * np.count_nonzero(weight)


def test_nan_is_kept():
    weight = np.zeros((5, 6), "float32")
    weight[3, 4] = np.nan
    packed = PackedSparse.from_dense(weight, 16, SparseTiling(4, 4))
    np.testing.assert_array_equal(packed.to_dense(), weight)


def test_offsets_point_at_the_input_channel_of_the_block():
    weight = np.zeros((4, 10), "float32")
    weight[:, 9] = 1
    packed = PackedSparse.from_dense(weight, 32, SparseTiling(4, 6))
    np.testing.assert_array_equal(packed.offsets, 3 * 32 // OFFSET_UNIT)


def test_wide_weights_fit_sixteen_bits_because_offsets_are_relative_to_the_block():
    weight = random_weight(4, 5000, 0.2, 4)
    packed = PackedSparse.from_dense(weight, 64, SparseTiling(4, 2048))
    np.testing.assert_array_equal(packed.to_dense(), weight)


@pytest.mark.parametrize(
    "arguments",
    [
        {"group": 0, "k_block": 8},
        {"group": 4, "k_block": 0},
        {"group": 4, "k_block": 8, "chunks": 0},
        {"group": 4, "k_block": 8, "window": 0},
    ],
)
def test_senseless_tilings_are_refused(arguments):
    with pytest.raises(ValueError, match="positive"):
        SparseTiling(**arguments)


def test_impossible_layouts_are_refused():
    with pytest.raises(ValueError, match="equal chunks"):
        SparseLayout.linear(10, 8, 32, SparseTiling(4, 8, chunks=3))
    with pytest.raises(ValueError, match="16-bit"):
        SparseLayout.linear(8, 4096, 64, SparseTiling(4, 4096))
    with pytest.raises(ValueError, match="multiple of 2"):
        SparseLayout.linear(8, 8, 7, SparseTiling(4, 8))

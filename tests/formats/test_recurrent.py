from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.formats.recurrent import pack_recurrent, tile_rows
from tvm_sparse.formats.rows import tile_starts
from tvm_sparse.formats.windows import MOST_VECTORS, WINDOWS, WindowSparse
from tvm_sparse.testing.models import pruned


def test_the_last_tile_overlaps_the_one_before_it():
    assert tile_starts(40, 16) == [0, 16, 24]
    assert tile_starts(32, 16) == [0, 16]


def test_rows_of_all_gates_of_a_tile_lie_together():
    rows = tile_rows((0, 2), hidden=6, width=2, vectors=2)
    assert rows.tolist() == [
        [[0, 1], [2, 3], [12, 13], [14, 15]],
        [[2, 3], [4, 5], [14, 15], [16, 17]],
    ]


def test_dense_packing():
    weight = np.arange(2 * 12 * 4, dtype="float32").reshape(2, 12, 4)
    rows = tile_rows((0, 1, 2), hidden=4, width=2, vectors=1)
    packed = pack_recurrent(weight, rows)
    assert packed.shape == (2, 2, 4, 3, 2)
    for direction, tile, k, vector, lane in np.ndindex(packed.shape):
        want = weight[direction, rows[tile, vector, lane], k]
        assert packed[direction, tile, k, vector, lane] == want


@settings(max_examples=40, deadline=None)
@given(
    width=st.sampled_from(sorted(WINDOWS)),
    directions=st.integers(1, 2),
    gates=st.integers(1, MOST_VECTORS),
    hidden=st.integers(16, 90),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
)
def test_sparse_packing_has_an_inverse(width, directions, gates, hidden, density):
    weight = pruned(np.random.default_rng(hidden), (directions, gates * hidden, hidden), density)
    rows = tile_rows(range(gates), hidden, width, vectors=1)
    packed = WindowSparse.from_dense(weight, rows)
    np.testing.assert_array_equal(packed.to_dense(rows, hidden), weight)
    places = packed.places[..., None] >> np.arange(0, 8 * gates, 8) & 255
    assert places.max() < WINDOWS[width]
    assert packed.windows.max() < hidden


@pytest.mark.parametrize(("density", "most"), [(0.1, 0.25), (0.05, 0.15)])
def test_sparse_packing_needs_few_steps(density, most):
    """A step of a pruned weight takes the place of many columns."""
    weight = pruned(np.random.default_rng(0), (1, 4 * 256, 256), density)
    packed = WindowSparse.from_dense(weight, tile_rows(range(4), 256, 16, 1))
    assert len(packed.windows) < most * 256 * 16

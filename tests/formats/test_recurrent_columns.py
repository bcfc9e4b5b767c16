from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.formats.recurrent import tile_rows
from tvm_sparse.formats.recurrent_columns import ColumnSparse
from tvm_sparse.testing.models import pruned


@settings(max_examples=40, deadline=None)
@given(
    directions=st.integers(1, 2),
    gates=st.integers(1, 4),
    hidden=st.integers(4, 90),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
)
def test_packing_has_an_inverse(directions, gates, hidden, density):
    weight = pruned(np.random.default_rng(hidden), (directions, gates * hidden, hidden), density)
    rows = tile_rows(range(gates), hidden, width=4, vectors=1)
    packed = ColumnSparse.from_dense(weight, rows)
    np.testing.assert_array_equal(packed.to_dense(rows, hidden), weight)
    assert packed.columns.max() < hidden


def test_a_tile_has_as_many_steps_as_its_fullest_row_has_values():
    weight = np.zeros((1, 8, 8), "float32")
    weight[0, 2, [1, 5, 7]] = weight[0, 6, 3] = 1
    packed = ColumnSparse.from_dense(weight, tile_rows([0], 8, width=4, vectors=1))
    assert packed.starts.tolist() == [[0, 3, 4]]
    assert packed.columns[:3, 0, 2].tolist() == [1, 5, 7]

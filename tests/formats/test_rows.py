import numpy as np
import pytest

from tvm_sparse.formats.rows import pack_rows, tile_channels
from tvm_sparse.formats.windows import WINDOWS, WindowSparse
from tvm_sparse.testing.models import pruned


def test_the_last_tile_overlaps_the_one_before_it():
    assert tile_channels(10, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]


def test_dense_tiles():
    weight = np.arange(10 * 3, dtype="float32").reshape(10, 3)
    packed = pack_rows(weight, 4)
    assert packed.shape == (3, 3, 4)
    np.testing.assert_array_equal(packed[2], weight[6:].T)


@pytest.mark.parametrize("width", list(WINDOWS))
@pytest.mark.parametrize("more", [0, 1, 300])
def test_windows_lie_inside_of_a_row(width, more):
    """Kernels load whole windows of a row of factors, behind which others' memory may lie."""
    columns = WINDOWS[width] + more
    weight = pruned(np.random.default_rng(0), (1, 40, columns), 0.2)
    rows = tile_channels(40, width).reshape(-1, 1, width)
    packed = WindowSparse.from_dense(weight, rows)
    assert packed.windows.min() >= 0 and packed.windows.max() <= columns - WINDOWS[width]
    np.testing.assert_array_equal(packed.to_dense(rows, columns), weight)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import native
from tvm_sparse.schedules.operators.concat import Concat, concat
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.kernels import run_in_columns, run_kernel


@settings(max_examples=10, deadline=None)
@given(
    images=st.integers(1, 2),
    rows=st.integers(1, 7),
    channels=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    lanes=st.sampled_from([8, 24, 144]),
    run_rows=st.integers(1, 4),
)
def test_channels_lie_behind_one_another(images, rows, channels, lanes, run_rows):
    random = np.random.default_rng(0)
    shapes = [(images * rows, count, lanes) for count in channels]
    arrays = [random.standard_normal(shape).astype("float32") for shape in shapes]
    sources = [Tensor(images, rows, count, lanes) for count in channels]
    want = np.concatenate(arrays, 1)
    stage = Concat(sources, native())
    named = {f"x{i}": array for i, array in enumerate(arrays)}
    for got in (
        run_kernel(concat(sources, native()), arrays, want.shape),
        run_in_columns(stage, named, ColumnPlan(5, run_rows)),
    ):
        np.testing.assert_array_equal(got, want)


def test_operands_of_different_rows():
    with pytest.raises(ValueError, match="differ in more than their channels"):
        Concat([Tensor(1, 4, 3, 8), Tensor(1, 5, 3, 8)], native())

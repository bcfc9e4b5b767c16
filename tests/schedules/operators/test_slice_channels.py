from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import native
from tvm_sparse.schedules.operators.slice_channels import SliceChannels, slice_channels
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.kernels import run_in_columns, run_kernel


@settings(max_examples=10, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, n) for n in (2, 7, 9))),
    cuts=st.tuples(st.integers(0, 8), st.integers(1, 9)),
    lanes=st.sampled_from([8, 24, 144]),
    run_rows=st.integers(1, 4),
)
def test_a_range_of_channels(sizes, cuts, lanes, run_rows):
    source = Tensor(*sizes, lanes)
    begin = min(cuts[0], source.channels - 1)
    end = min(begin + cuts[1], source.channels)
    shape = (source.images * source.rows, source.channels, lanes)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    want = x[:, begin:end]
    stage = SliceChannels(source, begin, end, native())
    for got in (
        run_kernel(slice_channels(source, begin, end, native()), [x], want.shape),
        run_in_columns(stage, {"x": x}, ColumnPlan(5, run_rows)),
    ):
        np.testing.assert_array_equal(got, want)


def test_channels_that_are_not_there():
    with pytest.raises(ValueError, match="channels 2 to 5 are not in"):
        SliceChannels(Tensor(1, 4, 4, 8), 2, 5, native())

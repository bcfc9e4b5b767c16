"""Drafts that are looked up in the text so far."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.generation.lookup import LONGEST_MATCH, draft


@pytest.mark.parametrize(
    ("ids", "most", "expected"),
    [
        ([1, 2, 3, 4, 1, 2, 3], 2, [4, 1]),
        ([1, 2, 3, 4, 1, 2, 3], 0, []),
        ([1, 2, 3], 4, []),
        ([], 4, []),
        ([7], 4, []),
        ([5, 5], 4, [5]),
        # The latest match counts, and a longer one more than a later one.
        ([1, 8, 1, 9, 1], 1, [9]),
        ([3, 1, 8, 2, 1, 9, 3, 1], 1, [8]),
        # A large number has bytes that look like others.
        ([256, 1, 65536, 256], 1, [1]),
        ([256, 0, 1], 1, []),
    ],
)
def test_draft(ids, most, expected):
    assert draft(ids, most) == expected


def _by_lists(ids, most):
    for length in range(min(LONGEST_MATCH, len(ids) - 1), 0, -1):
        for start in range(len(ids) - length - 1, -1, -1):
            if ids[start : start + length] == ids[-length:]:
                return ids[start + length : start + length + most]
    return []


@given(st.lists(st.sampled_from([0, 1, 2, 255, 256, 65536]), max_size=30), st.integers(1, 5))
def test_as_lists_are_searched(ids, most):
    assert draft(ids, most) == _by_lists(ids, most)

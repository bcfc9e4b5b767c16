"""Extents: integers that remember their expression."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.sizes.extent import Extent, value_of

N, S = Extent.symbol("n", 3), Extent.symbol("s", 37)
SIZES = st.fixed_dictionaries({"n": st.integers(1, 9), "s": st.integers(1, 400)})

LEAVES = st.sampled_from(["n", "s", "1", "2", "7", "32"])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({' '.join(t)})"),
        st.tuples(
            inner, st.sampled_from(["//", "%"]), st.sampled_from(["2", "7", "32", "n", "(n + s)"])
        ).map(lambda t: f"({' '.join(t)})"),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS, SIZES)
def test_an_extent_is_its_expression_for_all_sizes(expression, sizes):
    extent = eval(expression, {"n": N, "s": S})
    assert value_of(extent, sizes) == eval(expression, dict(sizes))
    assert int(extent) == eval(expression, {"n": 3, "s": 37})


def test_equality_and_divisibility_are_proofs():
    assert N != 3 and S != 37 and N * S == S * N and N + N == 2 * N
    assert (N * 64) % 32 == 0 and (N * 64) // 32 == 2 * N
    assert S % 37 != 0 and S % 37, "37 is the hint only"
    assert N * S // N == S
    assert -(-S // 32) == -(-S // 32)
    assert (S - 8) // 8 + 1 == S // 8 and (S - 1) // 2 + 1 == (S + 1) // 2
    assert (16 * N + S + 33) // 16 == N + 2 + (S + 1) // 16
    assert N * (S + N) // (S + N) == N and (N + S) * (S + 1) * 6 % (2 * S + 2) == 0
    assert (N * S + N + 1) % (S + 1) != 0 and 0 // (N + S) == 0


def test_order_is_a_matter_of_hints():
    assert N < 4 < S and max(N, S) is S


def test_what_no_longer_depends_on_a_size_is_a_plain_integer():
    assert type(N - N + 5) is int and N - N + 5 == 5
    assert type(N * 0) is int


def test_extents_with_different_hints_are_different_and_hash_alike_where_equal():
    assert Extent.symbol("n", 4) != N
    assert len({N * S, S * N, N}) == 2
    assert copy.deepcopy(N) is N


def test_a_missing_name_is_an_error():
    with pytest.raises(KeyError):
        value_of(N * S, {"n": 2})


def test_people_can_read_it():
    assert repr(2 * N + 1) == "2*n + 1 (7)"
    assert repr(-(-S // 32)) == "-1*(-1*s (-37) // 32) (2)"


def test_a_number_divides_a_sum_whose_products_it_divides():
    assert (16 * N + 1) // 2 == 8 * N
    assert (16 * N - 1) // 2 + 1 == 8 * N
    assert -(-(32 * N) // 2) == 16 * N
    assert (16 * N * S + 4 * N + 7) // 4 == 4 * N * S + N + 1
    assert (16 * N + 1) % 2 == 1
    odd = (3 * N + 1) // 2
    for n in range(1, 9):
        assert value_of(odd, {"n": n}) == (3 * n + 1) // 2
        assert value_of((16 * N - 5) // 4, {"n": n}) == (16 * n - 5) // 4

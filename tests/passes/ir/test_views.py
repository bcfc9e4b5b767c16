import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tvm_sparse.passes.ir.shapes import static_shape
from tvm_sparse.passes.ir.views import View


def tensor(*shape):
    return relax.Var("x", relax.TensorType(shape, "float32"))


def elements(view):
    """The positions in the base of all elements of a view, in its shape."""
    grid = np.full((), view.offset)
    for axis in view.axes:
        steps = np.zeros(1, int)
        for extent, stride in axis:
            steps = (steps[:, None] + stride * np.arange(extent)).ravel()
        grid = grid[..., None] + steps
    return grid


def interpret(value, base, array):
    """The result of a chain of reshape, permute_dims and strided_slice of `array` at `base`."""
    if value.same_as(base):
        return array
    source = interpret(value.args[0], base, array)
    match value.op.name:
        case "relax.reshape":
            return source.reshape([int(extent) for extent in value.args[1].values])
        case "relax.permute_dims":
            return source.transpose([int(axis) for axis in value.attrs.axes])
        case "relax.strided_slice":
            (_, (begin,), (end,)) = ([int(v) for v in arg.fields] for arg in value.args[1:4])
            return source[..., begin:end]


@st.composite
def chains(draw):
    """A view of a small tensor after random changes, beside NumPy's array after the same ones."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    array = np.arange(math.prod(shape)).reshape(shape)
    view = View.whole(tensor(*shape))
    for change in draw(st.lists(st.sampled_from(["reshape", "permute", "slice"]), max_size=4)):
        if change == "permute":
            order = draw(st.permutations(range(array.ndim)))
            view, array = view.permute(order), array.transpose(order)
        elif change == "reshape":
            size = array.size
            first = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
            reshaped = view.reshape((first, size // first))
            if reshaped is not None:
                view, array = reshaped, array.reshape(first, size // first)
        else:
            axis = draw(st.integers(0, array.ndim - 1))
            begin = draw(st.integers(0, array.shape[axis] - 1))
            end = draw(st.integers(begin + 1, array.shape[axis]))
            sliced = view.slice(axis, begin, end)
            if sliced is not None:
                view, array = sliced, array.take(range(begin, end), axis)
    return view, array


@settings(max_examples=200, deadline=None)
@given(chains())
def test_views_follow_numpy(chain):
    view, array = chain
    np.testing.assert_array_equal(elements(view), array)


@settings(max_examples=200, deadline=None)
@given(chains())
def test_materialized_views_compute_the_same(chain):
    view, array = chain
    written = view.materialize()
    if written is not None:
        shape = static_shape(view.base)
        base = np.arange(math.prod(shape)).reshape(shape)
        np.testing.assert_array_equal(interpret(written, view.base, base), array)


def test_split_heads_are_one_reshape():
    x = tensor(2, 7, 32)
    view = View.whole(x).reshape((2, 7, 4, 8)).permute((0, 2, 1, 3))  # to heads
    written = view.permute((0, 2, 1, 3)).materialize()  # and back
    assert written.op.name == "relax.reshape"
    assert written.args[0].same_as(x)


def test_a_third_of_the_channels_is_a_slice():
    view = View.whole(tensor(2, 7, 96)).reshape((2, 7, 3, 4, 8)).slice(2, 1, 2)
    written = view.reshape((2, 7, 4, 8)).materialize()
    assert written.op.name == "relax.reshape"
    assert written.args[0].op.name == "relax.strided_slice"


def test_a_transpose_with_one_token_is_a_reshape():
    view = View.whole(tensor(1, 1, 4, 8)).permute((0, 2, 1, 3))
    assert view.materialize().op.name == "relax.reshape"


def test_interleaved_heads_are_not_materialized():
    view = View.whole(tensor(2, 7, 96)).reshape((2, 7, 4, 3, 8)).slice(3, 1, 2)
    assert view.materialize() is None


def test_a_range_longer_than_its_slice_of_the_channels_is_not_materialized():
    view = View.whole(tensor(2, 3)).reshape((6,)).slice(0, 0, 2)
    assert view.materialize() is None

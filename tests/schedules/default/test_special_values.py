"""NaN and infinities in functions of TVM, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.cpu.profile import native
from tvm_sparse.testing.models import dataflow, run

OPS = relax.op
ROWS = 6
SPECIAL = np.float32([np.nan, np.inf, -np.inf, 0, 1, -1, 3e38, -3e38, 7, 0.5, -100])


def compute(body, *arrays):
    mod = dataflow(body, *(array.shape for array in arrays))
    return run(tvm.compile(mod, native().to_target(), relax_pipeline="tvm_sparse"), *arrays)


@pytest.fixture(params=[5, 16, 40], ids="{} columns".format)
def x(request):
    return np.resize(SPECIAL, (ROWS, request.param))


@pytest.fixture
def other(x):
    return np.roll(x, 3, 1)


def test_limits(x):
    limits = {
        OPS.nn.relu: lambda x: np.maximum(x, 0),
        lambda x: OPS.clip(x, -1.0, 2.0): lambda x: np.clip(x, -1, 2),
        lambda x: OPS.maximum(x, relax.const(2.0)): lambda x: np.maximum(x, 2),
        lambda x: OPS.minimum(relax.const(2.0), x): lambda x: np.minimum(x, 2),
        lambda x: OPS.clip(x, 2.0, -1.0): lambda x: np.clip(x, 2, -1),
    }
    for operator, reference in limits.items():
        got = compute(lambda emit, x, operator=operator: emit(operator(x)), x)
        np.testing.assert_array_equal(got, reference(x))


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_of_two_tensors(x, other, name):
    got = compute(lambda emit, a, b: emit(getattr(OPS, name)(a, b)), x, other)
    np.testing.assert_array_equal(got, getattr(np, name)(x, other))


@pytest.mark.parametrize("axis", [0, 1, (0, 1)])
@pytest.mark.parametrize("name", ["max", "min"])
def test_over_an_axis(x, name, axis):
    for start in (0, 1):  # with NaN in the tensor, and without
        part = np.where(np.isnan(x), -np.inf if name == "max" else np.inf, x) if start else x
        got = compute(lambda emit, x: emit(getattr(OPS, name)(x, axis)), part)
        np.testing.assert_array_equal(got, getattr(np, name)(part, axis))


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_of_nothing_but_infinities(name, value):
    x = np.full((ROWS, 40), value, "float32")
    got = compute(lambda emit, x: emit(getattr(OPS, name)(x, 1)), x)
    np.testing.assert_array_equal(got, x[:, 0])
    place = compute(lambda emit, x: emit(getattr(OPS, f"arg{name}")(x, 1)), x)
    np.testing.assert_array_equal(place, np.zeros(ROWS))


def test_softmax_keeps_nan():
    x = np.resize(np.float32([1, 2, 3, 4, 5]), (ROWS, 40))
    x[1, 7], x[2], x[3, 5] = np.nan, -np.inf, -np.inf
    got = compute(lambda emit, x: emit(OPS.nn.softmax(x, 1)), x)
    with np.errstate(invalid="ignore"):
        weights = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(got, weights / weights.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("axes", [1, 3])
def test_a_pooling_of_nothing_but_minus_infinity(axes):
    """The padding of TVM's poolings is no number that could win against -inf."""
    pool = {1: OPS.nn.max_pool1d, 3: OPS.nn.max_pool3d}[axes]
    x = np.zeros((1, 2, *(6,) * axes), "float32")
    x[:, :, :3] = -np.inf
    got = compute(lambda emit, x: emit(pool(x, (3,) * axes, 1, 1)), x)
    assert (got[:, :, :2] == -np.inf).all()
    assert (got[:, :, 2:] == 0).all()

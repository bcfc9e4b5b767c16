"""Views of quantized weights reach their integers."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.view_quantized_weights import ViewQuantizedWeights
from tvm_sparse.testing.models import dataflow

OPS = relax.op
rng = np.random.default_rng(0)


def dequantize(values, axis=None, dtype="int8", zero=3):
    """Return the dequantization of a constant, per tensor or per entry of an axis."""
    size = () if axis is None else (values.shape[axis],)
    scale = np.linspace(0.5, 1.5, size[0]).astype("float32") if size else np.float32(0.5)
    points = np.full(size, zero, dtype)
    constants = [relax.const(a, str(np.asarray(a).dtype)) for a in (values, scale, points)]
    return OPS.dequantize(*constants, axis=axis or 0)


WEIGHT = rng.integers(-100, 100, (6, 10)).astype("int8")
KERNEL = rng.integers(-100, 100, (6, 5, 3)).astype("int8")


@pytest.mark.parametrize(
    ("weight", "axis", "view", "moved", "moved_axis"),
    [
        (WEIGHT, 0, lambda w: OPS.permute_dims(w), WEIGHT.T, 1),
        (WEIGHT, 1, lambda w: OPS.permute_dims(w, [1, 0]), WEIGHT.T, 0),
        (WEIGHT, None, lambda w: OPS.reshape(w, (15, 4)), WEIGHT.reshape(15, 4), None),
        (KERNEL, 0, lambda w: OPS.reshape(w, (6, 5, 1, 3)), KERNEL[:, :, None], 0),
        (KERNEL, 1, lambda w: OPS.expand_dims(w, 0), KERNEL[None], 2),
    ],
)
def test_views_are_those_of_the_integers(weight, axis, view, moved, moved_axis):
    def network(value):
        return lambda emit, x: emit(OPS.matmul(x, emit(value(emit))))

    shape = (1, moved.shape[-2])
    after = dataflow(network(lambda _: dequantize(moved, moved_axis)), shape)
    before = dataflow(network(lambda emit: view(emit(dequantize(weight, axis)))), shape)
    tvm.ir.assert_structural_equal(ViewQuantizedWeights()(before), after)


@pytest.mark.parametrize(
    ("axis", "view"),
    [(1, lambda w: OPS.reshape(w, (15, 4))), (0, lambda w: OPS.reshape(w, (60, 1)))],
)
def test_views_that_tear_the_channels_apart_stay(axis, view):
    mod = dataflow(lambda emit, x: emit(OPS.add(x, emit(view(emit(dequantize(WEIGHT, axis)))))), ())
    tvm.ir.assert_structural_equal(ViewQuantizedWeights()(mod), mod)


def test_rows_of_a_table_are_dequantized_behind_the_look_up():
    rows = relax.const(np.array([1, 4, 1]), "int64")

    def before(emit, x):
        return emit(OPS.add(x, emit(OPS.take(emit(dequantize(WEIGHT)), rows, axis=0))))

    def after(emit, x):
        picked = emit(OPS.take(relax.const(WEIGHT), rows, axis=0))
        parameters = relax.const(0.5, "float32"), relax.const(np.int8(3), "int8")
        return emit(OPS.add(x, emit(OPS.dequantize(picked, *parameters, axis=0))))

    tvm.ir.assert_structural_equal(
        ViewQuantizedWeights()(dataflow(before, (3, 10))), dataflow(after, (3, 10))
    )

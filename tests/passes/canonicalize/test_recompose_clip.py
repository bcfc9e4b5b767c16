from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax, topi

from tvm_sparse.frontends.onnx_importer import import_onnx
from tvm_sparse.passes.canonicalize.recompose_clip import RecomposeClip
from tvm_sparse.testing.models import dataflow, operators_of, write_onnx

SHAPE = (2, 3)


def assert_recomposes(before, after, *shapes):
    canonical = relax.transform.CanonicalizeBindings()
    mod = canonical(RecomposeClip()(dataflow(before, *shapes)))
    expected = canonical(dataflow(after, *shapes))
    tvm.ir.assert_structural_equal(mod["main"], expected["main"])


def test_both_limits():
    def before(emit, x):
        low = emit(relax.op.maximum(x, relax.const(-1.0, "float32")))
        return emit(relax.op.minimum(low, relax.const(np.full((1, 3), 2, "float32"))))

    assert_recomposes(before, lambda emit, x: emit(relax.op.clip(x, -1.0, 2.0)), SHAPE)


@pytest.mark.parametrize("low", [7.0, 0.0])
def test_a_low_limit_above_the_high_one_gives_the_high_one(low):
    """ONNX, NumPy and PyTorch define it so; `relax.clip` would return the low limit."""
    high = low - 1

    def limited(emit, x):
        x = emit(relax.op.maximum(x, relax.const(low, "float32")))
        return emit(relax.op.minimum(x, relax.const(high, "float32")))

    def after(emit, x):
        lowest = relax.op.maximum(x, relax.const(low, "float32")) if low else relax.op.nn.relu(x)
        return emit(relax.op.minimum(emit(lowest), relax.const(high, "float32")))

    assert_recomposes(limited, after, SHAPE)
    assert_recomposes(lambda emit, x: emit(relax.op.clip(x, low, high)), limited, SHAPE)


def test_one_limit():
    def before(emit, x):
        x = emit(relax.op.minimum(x, relax.const(6.0, "float32")))
        x = emit(relax.op.maximum(x, relax.const(-math.inf, "float32")))
        return emit(relax.op.maximum(x, relax.const(0.0, "float32")))

    def after(emit, x):
        return emit(relax.op.nn.relu(emit(relax.op.minimum(x, relax.const(6.0, "float32")))))

    assert_recomposes(before, after, SHAPE)


@pytest.mark.parametrize("bound", [[1.0, 2.0, 3.0], [math.nan] * 3])
def test_other_limits_stay(bound):
    def body(emit, x):
        return emit(relax.op.maximum(x, relax.const(np.float32(bound))))

    assert_recomposes(body, body, SHAPE)


def test_other_lowered_functions_stay():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(SHAPE, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_te(topi.add, x, relax.const(6.0, "float32"))
            z = builder.emit_te(topi.minimum, y, x)
            result = builder.emit_output(builder.call_te(topi.multiply, z, 2.0))
        builder.emit_func_output(result)
    assert operators_of(RecomposeClip()(builder.get())) == ["call_tir"] * 3


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 6.0, ["clip"]), (0.0, None, ["nn.relu"]), (None, 1.0, ["minimum"])],
)
def test_clip_of_onnx(tmp_path, opset, low, high, expected):
    bounds = {name: bound for name, bound in (("min", low), ("max", high)) if bound is not None}
    if opset < 11:
        node, weights = onnx.helper.make_node("Clip", ["x"], ["y"], **bounds), {}
    else:
        names = [name if name in bounds else "" for name in ("min", "max")]
        node = onnx.helper.make_node("Clip", ["x", *names], ["y"])
        weights = {name: np.float32(bound) for name, bound in bounds.items()}
    path = write_onnx(tmp_path / "clip.onnx", [node], {"x": [2, 3]}, ["y"], weights, opset)
    mod = relax.transform.FoldConstant()(import_onnx(path).mod)
    assert operators_of(RecomposeClip()(mod)) == expected

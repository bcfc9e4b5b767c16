from __future__ import annotations

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax
from tvm.relax.op import add, clip, divide, multiply

from tvm_sparse.frontends.onnx_importer import import_onnx
from tvm_sparse.passes.canonicalize.recompose_hard_swish import RecomposeHardSwish
from tvm_sparse.passes.ir import operators
from tvm_sparse.testing.models import dataflow, operators_of, run, write_onnx

SHAPE = (2, 40)


def number(value):
    return relax.const(value, "float32")


def by_three(emit, x):
    limited = emit(clip(emit(add(x, number(3))), 0, 6))
    return emit(divide(emit(multiply(x, limited)), number(6)))


def by_sixth(emit, x):
    line = emit(add(emit(multiply(number(1 / 6), x)), number(0.5)))
    return emit(multiply(emit(clip(line, 0, 1)), x))


def factor_first(emit, x):
    limited = emit(clip(emit(add(number(3), x)), 0, 6))
    return emit(multiply(x, emit(multiply(limited, number(1 / 6)))))


@pytest.mark.parametrize("body", [by_three, by_sixth, factor_first])
def test_every_spelling(body):
    mod = RecomposeHardSwish()(dataflow(body, SHAPE))
    expected = dataflow(lambda emit, x: emit(operators.hardswish(x)), SHAPE)
    tvm.ir.assert_structural_equal(mod["main"], expected["main"])


def test_other_limits_and_slopes_stay():
    def hard_sigmoid_times_x(emit, x):
        line = emit(add(emit(multiply(number(0.2), x)), number(0.5)))
        return emit(multiply(emit(clip(line, 0, 1)), x))

    def half(emit, x):
        return emit(multiply(x, emit(clip(emit(add(x, number(3))), 0, 6))))

    for body in (hard_sigmoid_times_x, half):
        before = dataflow(body, SHAPE)
        tvm.ir.assert_structural_equal(RecomposeHardSwish()(before), before)


def test_numbers(tmp_path):
    node = onnx.helper.make_node("HardSwish", ["x"], ["y"])
    path = write_onnx(tmp_path / "swish.onnx", [node], {"x": SHAPE}, ["y"], {})
    mod = import_onnx(path).mod
    assert operators_of(RecomposeHardSwish()(mod)) == ["tvm_sparse.hardswish"]
    x = np.linspace(-5, 5, 80, dtype="float32").reshape(SHAPE)
    y = run(tvm.compile(mod, "llvm", relax_pipeline="tvm_sparse"), x)
    np.testing.assert_allclose(y, x * np.clip(x / 6 + 0.5, 0, 1), rtol=1e-6, atol=1e-6)

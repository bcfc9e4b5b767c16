from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.recompose_quantized_products import (
    RecomposeQuantizedProducts,
)
from tvm_sparse.testing.models import dataflow

OPS = relax.op
rng = np.random.default_rng(0)
WEIGHT = relax.const(rng.integers(-100, 100, (8, 6)).astype("int8"))
KERNEL = relax.const(rng.integers(-100, 100, (6, 8, 3, 3)).astype("int8"))
ZERO_X, ZERO_W = relax.const(np.uint8(120), "uint8"), relax.const(np.int8(2), "int8")
BIAS = rng.integers(-3000, 3000, 6).astype("int32")


def number(value):
    return relax.const(np.float32(value), "float32")


def dequantize(value, scale, zero, axis=0):
    return OPS.dequantize(value, scale, zero, axis=axis)


def same(before, after, *shapes):
    """Assert that the pass makes `after` of `before`."""
    mod = RecomposeQuantizedProducts()(dataflow(before, *shapes))
    tvm.ir.assert_structural_equal(mod, dataflow(after, *shapes))


def product(emit, quantized, scale_x, weight, scale_w, axis=0):
    x = emit(dequantize(quantized, scale_x, ZERO_X))
    w = emit(dequantize(weight, scale_w, ZERO_W, axis))
    if weight is WEIGHT:
        return emit(OPS.matmul(x, w))
    return emit(OPS.nn.conv2d(x, w, padding=1))


def quantize(emit, x, scale=0.5):
    scale = number(scale) if isinstance(scale, float) else scale
    return emit(OPS.quantize(x, scale, ZERO_X, axis=0, out_dtype="uint8"))


def as_float(emit, exact):
    return emit(OPS.astype(exact, "float32"))


SHAPES = {"matmul": (2, 8), "conv2d": (1, 8, 5, 5)}
WEIGHTS = {"matmul": WEIGHT, "conv2d": KERNEL}


@pytest.mark.parametrize("operator", ["matmul", "conv2d"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_scales_known_at_compile_time(operator, per_channel, with_bias):
    wide = (6,) if operator == "matmul" else (6, 1, 1)
    scale_w = (np.arange(1, 7) / 8 if per_channel else np.array(0.25)).astype("float32")
    factor = (scale_w / 2).reshape(wide) if per_channel else scale_w / np.float32(2)
    bias = BIAS.reshape(wide)

    def before(emit, x):
        exact = product(emit, quantize(emit, x), number(1), WEIGHTS[operator], number(1))
        exact = emit(OPS.astype(exact, "int32"))
        if with_bias:
            exact = emit(OPS.add(exact, relax.const(bias)))
        return emit(OPS.multiply(as_float(emit, exact), relax.const(factor, "float32")))

    def after(emit, x):
        axis = int(per_channel and operator == "matmul")
        of_w = relax.const(scale_w, "float32")
        result = product(emit, quantize(emit, x), number(0.5), WEIGHTS[operator], of_w, axis)
        if with_bias:
            shift = relax.const(bias.astype("float32") * factor, "float32")
            result = emit(OPS.add(result, shift))
        return result

    same(before, after, SHAPES[operator])


def test_the_scale_of_the_input_is_computed_when_the_model_runs():
    def before(emit, x):
        scale = emit(OPS.max(x))
        exact = product(emit, quantize(emit, x, scale), number(1), WEIGHT, number(1))
        factor = emit(OPS.multiply(scale, number(0.25)))
        exact = emit(OPS.astype(exact, "int32"))
        return emit(OPS.multiply(as_float(emit, exact), factor))

    def after(emit, x):
        scale = emit(OPS.max(x))
        return product(emit, quantize(emit, x, scale), scale, WEIGHT, number(0.25))

    same(before, after, (2, 8))


def test_a_bias_may_be_computed_when_the_model_runs():
    """Older versions of ONNX Runtime's dynamic quantizer divide it by the scales there."""

    def before(emit, x, bias):
        exact = product(emit, quantize(emit, x), number(1), KERNEL, number(1))
        exact = emit(OPS.add(emit(OPS.astype(exact, "int32")), emit(OPS.astype(bias, "int32"))))
        return emit(OPS.multiply(as_float(emit, exact), number(0.125)))

    def after(emit, x, bias):
        quantized = quantize(emit, x)
        wide = emit(OPS.astype(emit(OPS.astype(bias, "int32")), "float32"))
        image = emit(dequantize(quantized, number(0.5), ZERO_X))
        kernel = emit(dequantize(KERNEL, number(0.25), ZERO_W))
        shift = emit(OPS.multiply(wide, number(0.125)))
        return emit(OPS.add(emit(OPS.nn.conv2d(image, kernel, padding=1)), shift))

    same(before, after, (1, 8, 5, 5), (1, 6, 1, 1))


def test_a_scale_of_something_else_stays_a_factor():
    def before(emit, x, other):
        exact = product(emit, quantize(emit, x), number(1), WEIGHT, number(1))
        exact = as_float(emit, emit(OPS.astype(exact, "int32")))
        return emit(OPS.multiply(exact, emit(OPS.multiply(other, number(0.25)))))

    def after(emit, x, other):
        result = product(emit, quantize(emit, x), number(0.5), WEIGHT, number(0.5))
        return emit(OPS.multiply(result, other))

    same(before, after, (2, 8), ())


def test_sums_that_are_read_as_integers_stay():
    def network(emit, x):
        exact = product(emit, quantize(emit, x), number(1), WEIGHT, number(1))
        return emit(OPS.astype(exact, "int32"))

    mod = dataflow(network, (2, 8))
    tvm.ir.assert_structural_equal(RecomposeQuantizedProducts()(mod), mod)


def test_a_factor_of_other_axes_stays():
    def network(factor):
        def body(emit, x):
            exact = product(emit, quantize(emit, x), number(1), WEIGHT, number(1))
            return emit(OPS.multiply(exact, factor))

        return body

    mod = dataflow(network(relax.const(np.float32([[0.5], [0.25]]))), (2, 8))
    tvm.ir.assert_structural_equal(RecomposeQuantizedProducts()(mod), mod)


def test_a_product_that_something_else_reads_is_computed_once():
    def network(emit, x):
        exact = product(emit, quantize(emit, x), number(1), WEIGHT, number(1))
        scaled = emit(OPS.multiply(exact, number(0.25)))
        return emit(OPS.add(scaled, emit(OPS.abs(exact))))

    mod = dataflow(network, (2, 8))
    tvm.ir.assert_structural_equal(RecomposeQuantizedProducts()(mod), mod)

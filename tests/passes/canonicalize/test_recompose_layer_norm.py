import numpy as np
import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R

from tvm_sparse.passes.canonicalize.recompose_layer_norm import RecomposeLayerNorm

# The float32 nearest to the usual epsilon: attributes are doubles.
EPSILON = float(np.float32(1e-5))


def layer_norm(axis=(-1,), keepdims=True, exponent=2.0, second_axis=None):
    """The operators that torch.onnx writes at opsets below 17."""

    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((2, 3, 8), "float32"),
            gamma: R.Tensor((8,), "float32"),
            beta: R.Tensor((8,), "float32"),
        ):
            with R.dataflow():
                mean = R.mean(x, axis=axis, keepdims=keepdims)
                centred = R.subtract(x, mean)
                squared = R.power(centred, R.const(exponent, "float32"))
                variance = R.mean(squared, axis=second_axis or axis, keepdims=keepdims)
                shifted = R.add(variance, R.const(1e-5, "float32"))
                deviation = R.sqrt(shifted)
                normalized = R.divide(centred, deviation)
                scaled = R.multiply(normalized, gamma)
                y = R.add(scaled, beta)
                R.output(y)
            return y

    return Before


def test_written_out_layer_norm_becomes_one_operator():
    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((2, 3, 8), "float32"),
            gamma: R.Tensor((8,), "float32"),
            beta: R.Tensor((8,), "float32"),
        ):
            with R.dataflow():
                y = R.nn.layer_norm(x, gamma, beta, axes=[-1], epsilon=EPSILON)
                R.output(y)
            return y

    for axis in ((-1,), (2,)):
        after = RecomposeLayerNorm()(layer_norm(axis))
        tvm.ir.assert_structural_equal(after, Expected, map_free_vars=True)


def test_square_by_product_swapped_operands_and_no_beta():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((3, 8), "float32"), gamma: R.Tensor((8,), "float32")):
            with R.dataflow():
                mean = R.mean(x, axis=[1], keepdims=True)
                centred = R.subtract(x, mean)
                squared = R.multiply(centred, centred)
                variance = R.mean(squared, axis=[1], keepdims=True)
                shifted = R.add(R.const(1e-5, "float32"), variance)
                deviation = R.sqrt(shifted)
                normalized = R.divide(centred, deviation)
                y = R.multiply(gamma, normalized)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((3, 8), "float32"), gamma: R.Tensor((8,), "float32")):
            with R.dataflow():
                y = R.nn.layer_norm(
                    x, gamma, R.const([0.0] * 8, "float32"), axes=[-1], epsilon=EPSILON
                )
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(RecomposeLayerNorm()(Before), Expected, map_free_vars=True)


@pytest.mark.parametrize(
    "variation",
    [
        {"axis": (1,)},
        {"axis": (0, 2)},
        {"axis": (-1,), "second_axis": (1,)},
        {"exponent": 3.0},
        # gamma has the shape of the last axis only
        {"axis": (1, 2)},
    ],
    ids=str,
)
def test_anything_else_stays(variation):
    before = layer_norm(**variation)
    tvm.ir.assert_structural_equal(RecomposeLayerNorm()(before), before)


def test_a_mean_that_drops_its_axis_stays():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((8, 8), "float32"), gamma: R.Tensor((8,), "float32")):
            with R.dataflow():
                mean = R.mean(x, axis=[1], keepdims=False)
                centred = R.subtract(x, mean)
                squared = R.multiply(centred, centred)
                variance = R.mean(squared, axis=[1], keepdims=False)
                shifted = R.add(variance, R.const(1e-5, "float32"))
                deviation = R.sqrt(shifted)
                normalized = R.divide(centred, deviation)
                y = R.multiply(normalized, gamma)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(RecomposeLayerNorm()(Before), Before)

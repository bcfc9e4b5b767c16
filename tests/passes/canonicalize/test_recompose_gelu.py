import math

import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from tvm_sparse.passes.canonicalize.recompose_gelu import RecomposeGelu
from tvm_sparse.testing.models import dataflow


def function(body):
    return dataflow(body, (2, 8))


def f(value):
    return relax.const(value, "float32")


def erf_of(x, emit, divisor=1.4142135):
    return emit(relax.op.erf(emit(relax.op.divide(x, f(divisor)))))


def tanh_of(x, emit, cubic=0.044715):
    cube = emit(relax.op.multiply(emit(relax.op.power(x, f(3.0))), f(cubic)))
    argument = emit(relax.op.multiply(emit(relax.op.add(x, cube)), f(math.sqrt(2 / math.pi))))
    return emit(relax.op.tanh(argument))


def test_gelu_of_torch_becomes_one_operator():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 8), "float32")):
            with R.dataflow():
                scaled = R.divide(x, R.const(1.4142135381698608, "float32"))
                t = R.erf(scaled)
                shifted = R.add(t, R.const(1.0, "float32"))
                product = R.multiply(x, shifted)
                y = R.multiply(product, R.const(0.5, "float32"))
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 8), "float32")):
            with R.dataflow():
                y = R.nn.gelu(x)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(RecomposeGelu()(Before), Expected, map_free_vars=True)


@pytest.mark.parametrize("t_of", [erf_of, tanh_of])
@pytest.mark.parametrize(
    "compose",
    [
        lambda x, t, e: e(x * f(0.5)) * e(t + f(1.0)),
        lambda x, t, e: x * e(f(0.5) * e(f(1.0) + t)),
        lambda x, t, e: e(x * e(t + f(1.0))) / f(2.0),
        lambda x, t, e: x * e(e(t * f(0.5)) + f(0.5)),
        lambda x, t, e: e(x + e(x * t)) * f(0.5),
        lambda x, t, e: e(x * f(0.5)) + e(e(x * f(0.5)) * t),
    ],
)
def test_the_order_of_terms_does_not_matter(compose, t_of):
    after = RecomposeGelu()(function(lambda emit, x: compose(x, t_of(x, emit), emit)))
    gelu = relax.op.nn.gelu if t_of is erf_of else relax.op.nn.gelu_tanh
    tvm.ir.assert_structural_equal(after, function(lambda emit, x: gelu(x)))


def test_cube_by_products_and_distributed_slope():
    slope = math.sqrt(2 / math.pi)

    def before(e, x):
        square = e(e(x * x) * f(0.044715 * slope))
        t = e(relax.op.tanh(e(x * e(square + f(slope)))))
        return e(x * f(0.5)) * e(t + f(1.0))

    after = RecomposeGelu()(function(before))
    tvm.ir.assert_structural_equal(after, function(lambda emit, x: relax.op.nn.gelu_tanh(x)))


def test_argument_that_is_itself_arithmetic():
    def before(e, x):
        gate = e(e(x * x) + f(1.0))
        return e(gate * f(0.5)) * e(erf_of(gate, e) + f(1.0))

    def expected(e, x):
        return relax.op.nn.gelu(e(e(x * x) + f(1.0)))

    tvm.ir.assert_structural_equal(RecomposeGelu()(function(before)), function(expected))


@pytest.mark.parametrize(
    "body",
    [
        lambda e, x: e(x * f(0.5)) * e(erf_of(x, e, divisor=1.5) + f(1.0)),
        lambda e, x: e(x * f(0.5)) * e(erf_of(x, e) + f(2.0)),
        lambda e, x: e(x * f(0.25)) * e(erf_of(x, e) + f(1.0)),
        lambda e, x: e(x * f(0.5)) * e(f(1.0) - erf_of(x, e)),
        lambda e, x: e(x * f(0.5)) * e(tanh_of(x, e, cubic=0.05) + f(1.0)),
        lambda e, x: e(e(x + f(1.0)) * f(0.5)) * e(erf_of(x, e) + f(1.0)),
    ],
    ids=["divisor", "shift", "factor", "sign", "cubic", "another x"],
)
def test_anything_else_stays(body):
    tvm.ir.assert_structural_equal(RecomposeGelu()(function(body)), function(body))

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.split_linear import SplitLinear
from tvm_sparse.testing.models import dataflow

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((8, 12)).astype("float32")
BIAS = RNG.standard_normal(12).astype("float32")


def function(body):
    return dataflow(body, (2, 5, 8))


def linear(emit, x, channels=slice(None)):
    y = emit(relax.op.matmul(x, relax.const(np.ascontiguousarray(WEIGHT[:, channels]))))
    return emit(relax.op.add(y, relax.const(BIAS[channels])))


def cut(emit, y, begin, end, axis=-1):
    return emit(relax.op.strided_slice(y, [axis], [begin], [end]))


def test_one_layer_for_each_slice():
    def before(emit, x):
        y = linear(emit, x)
        return emit(cut(emit, y, 0, 4) * emit(cut(emit, y, 4, 8) + cut(emit, y, 8, 12, axis=2)))

    def after(emit, x):
        a, b, c = (linear(emit, x, slice(i, i + 4)) for i in (0, 4, 8))
        return emit(a * emit(b + c))

    tvm.ir.assert_structural_equal(SplitLinear()(function(before)), function(after))


def test_without_bias():
    def before(emit, x):
        return emit(
            relax.op.nn.relu(cut(emit, emit(relax.op.matmul(x, relax.const(WEIGHT))), 2, 7))
        )

    def after(emit, x):
        weight = relax.const(np.ascontiguousarray(WEIGHT[:, 2:7]))
        return emit(relax.op.nn.relu(emit(relax.op.matmul(x, weight))))

    tvm.ir.assert_structural_equal(SplitLinear()(function(before)), function(after))


def stays(body):
    tvm.ir.assert_structural_equal(SplitLinear()(function(body)), function(body))


def test_a_layer_that_is_also_read_whole_stays():
    def body(emit, x):
        y = linear(emit, x)
        return emit(relax.op.concat([cut(emit, y, 0, 4), y], -1))

    stays(body)


def test_overlapping_slices_stay():
    def body(emit, x):
        y = linear(emit, x)
        return emit(cut(emit, y, 0, 8) + cut(emit, y, 4, 12))

    stays(body)


def test_a_slice_of_the_tokens_stays():
    def body(emit, x):
        return emit(relax.op.nn.relu(cut(emit, linear(emit, x), 0, 1, axis=1)))

    stays(body)

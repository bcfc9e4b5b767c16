import numpy as np
import tvm
from tvm import relax

from tvm_sparse.passes.split_linear import SplitLinear

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((8, 12)).astype("float32")
BIAS = RNG.standard_normal(12).astype("float32")


def function(body):
    """A module whose main returns `body(x, emit)` for one float32 input x."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 5, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(body(x, builder.emit))
        builder.emit_func_output(y)
    return builder.finalize()


def linear(x, emit, channels=slice(None)):
    y = emit(relax.op.matmul(x, relax.const(np.ascontiguousarray(WEIGHT[:, channels]))))
    return emit(relax.op.add(y, relax.const(BIAS[channels])))


def cut(y, emit, begin, end, axis=-1):
    return emit(relax.op.strided_slice(y, [axis], [begin], [end]))


def test_one_layer_for_each_slice():
    def before(x, emit):
        y = linear(x, emit)
        return emit(cut(y, emit, 0, 4) * emit(cut(y, emit, 4, 8) + cut(y, emit, 8, 12, axis=2)))

    def after(x, emit):
        a, b, c = (linear(x, emit, slice(i, i + 4)) for i in (0, 4, 8))
        return emit(a * emit(b + c))

    tvm.ir.assert_structural_equal(SplitLinear()(function(before)), function(after))


def test_without_bias():
    def before(x, emit):
        return emit(
            relax.op.nn.relu(cut(emit(relax.op.matmul(x, relax.const(WEIGHT))), emit, 2, 7))
        )

    def after(x, emit):
        weight = relax.const(np.ascontiguousarray(WEIGHT[:, 2:7]))
        return emit(relax.op.nn.relu(emit(relax.op.matmul(x, weight))))

    tvm.ir.assert_structural_equal(SplitLinear()(function(before)), function(after))


def stays(body):
    tvm.ir.assert_structural_equal(SplitLinear()(function(body)), function(body))


def test_a_layer_that_is_also_read_whole_stays():
    def body(x, emit):
        y = linear(x, emit)
        return emit(relax.op.concat([cut(y, emit, 0, 4), y], -1))

    stays(body)


def test_overlapping_slices_stay():
    def body(x, emit):
        y = linear(x, emit)
        return emit(cut(y, emit, 0, 8) + cut(y, emit, 4, 12))

    stays(body)


def test_a_slice_of_the_tokens_stays():
    def body(x, emit):
        return emit(relax.op.nn.relu(cut(linear(x, emit), emit, 0, 1, axis=1)))

    stays(body)

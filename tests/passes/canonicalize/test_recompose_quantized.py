import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from tvm_sparse.formats.quantization import Quantization
from tvm_sparse.passes.canonicalize.recompose_quantized import RecomposeQuantized
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.run_time_steps import parts_of

BYTES = Quantization(0.5, 3, 0, 255)
SCALE, ZERO = relax.const(0.5, "float32"), relax.const(3, "uint8")


def module(shape, body, *, dtype="float32"):
    """Return a module whose function returns ``body(x)``, a chain of calls."""
    x = relax.Var("x", relax.TensorType(shape, dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(body(builder, x))
        builder.emit_func_output(y)
    return builder.get()


def rounded(builder, x, scale=SCALE, zero=ZERO, *, axis=-1):
    integers = builder.emit(relax.op.quantize(x, scale, zero, axis, "uint8"))
    return builder.emit(relax.op.dequantize(integers, scale, zero, axis))


def weight(builder, values, scale, zero=0, axis=0):
    array = relax.const(values)
    point = relax.const(np.asarray(zero, values.dtype))
    return builder.emit(relax.op.dequantize(array, relax.const(scale), point, axis))


def called(mod):
    """Return the calls of a module, in order."""
    values = [binding.value for binding in mod["main"].body.blocks[0].bindings]
    return [value for value in values if isinstance(value, relax.Call)]


def names(mod):
    return [call.op.name.removeprefix("relax.").removeprefix("tvm_sparse.") for call in called(mod)]


def test_a_quantized_layer_keeps_the_integers_of_its_weight():
    values = np.arange(-6, 6, dtype="int8").reshape(4, 3)
    scale = np.array([1, 2, 3], "float32")

    def body(builder, x):
        return relax.op.matmul(rounded(builder, x), weight(builder, values, scale, axis=1))

    def expected(_builder, x):
        return operators.quantized_matmul(x, relax.const(values), relax.const(scale), BYTES)

    after = RecomposeQuantized()(module((2, 4), body))
    tvm.ir.assert_structural_equal(after, module((2, 4), expected), map_free_vars=True)


def test_a_convolution_with_a_weight_of_bytes_around_its_zero_point():
    values = np.arange(54, dtype="uint8").reshape(2, 3, 3, 3) + 100

    def body(builder, x):
        w = weight(builder, values, np.float32(0.25), 128)
        return relax.op.nn.conv2d(rounded(builder, x), w, (2, 2), (1, 1, 1, 1))

    (call,) = called(RecomposeQuantized()(module((1, 3, 8, 8), body)))
    assert call.op.name == operators.QUANTIZED_CONV2D.name
    np.testing.assert_array_equal(call.args[1].value.numpy(), values.astype("int32") - 128)
    np.testing.assert_array_equal(call.args[2].value.numpy(), np.full(2, 0.25, "float32"))
    assert [int(s) for s in call.attrs["strides"]] == [2, 2]


def test_a_weight_that_is_farther_from_its_zero_point_than_a_byte_reaches():
    values = np.arange(12, dtype="uint8").reshape(4, 3) * 23

    def body(builder, x):
        return relax.op.matmul(rounded(builder, x), weight(builder, values, np.float32(1), 117))

    (call,) = called(RecomposeQuantized()(module((2, 4), body)))
    found = call.args[1].value.numpy()
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, values.astype("int32") - 117)


def test_a_transposed_weight():
    values = np.arange(-6, 6, dtype="int8").reshape(3, 4)
    scale = np.array([1, 2, 3], "float32")

    def body(builder, x):
        transposed = builder.emit(relax.op.permute_dims(weight(builder, values, scale)))
        return relax.op.matmul(rounded(builder, x), transposed)

    (call,) = called(RecomposeQuantized()(module((2, 4), body)))
    np.testing.assert_array_equal(call.args[1].value.numpy(), values.T)
    np.testing.assert_array_equal(call.args[2].value.numpy(), scale)


@pytest.mark.parametrize(
    ("values", "scale", "axis"),
    [
        (np.ones((4, 3), "int8"), np.ones(4, "float32"), 0),  # a scale for each input
        (np.ones((4, 3), "int32"), np.float32(1), 0),
    ],
)
def test_other_weights_become_floats(values, scale, axis):
    def body(builder, x):
        return relax.op.matmul(rounded(builder, x), weight(builder, values, scale, axis=axis))

    rounding, product = called(RecomposeQuantized()(module((2, 4), body)))
    assert rounding.op.name == operators.FAKE_QUANTIZE.name
    assert product.op.name == "relax.matmul"
    np.testing.assert_array_equal(product.args[1].value.numpy(), values.astype("float32"))


def test_a_kernel_that_is_too_wide_meets_floats():
    def body(builder, x):
        w = weight(builder, np.ones((2, 3, 1, 65), "int8"), np.float32(0.25))
        return relax.op.nn.conv2d(rounded(builder, x), w)

    after = RecomposeQuantized()(module((1, 3, 4, 80), body))
    assert names(after) == ["fake_quantize", "nn.conv2d"]


def test_a_convolution_of_one_axis_is_one_of_images_of_one_row():
    values = np.arange(-15, 15, dtype="int8").reshape(2, 3, 5)
    scale = np.array([1, 2], "float32")

    def body(builder, x):
        w = weight(builder, values, scale)
        return relax.op.nn.conv1d(rounded(builder, x), w, 2, (1, 2), 3)

    def expected(builder, x):
        row = builder.emit(relax.op.reshape(x, (2, 3, 1, 40)))
        constants = relax.const(values[:, :, None]), relax.const(scale)
        attributes = {"strides": [1, 2], "padding": [0, 1, 0, 2], "dilation": [1, 3], "groups": 1}
        y = operators.quantized_conv2d(row, *constants, BYTES, attributes)
        return relax.op.reshape(builder.emit(y), (2, 2, 16))

    after = RecomposeQuantized()(module((2, 3, 40), body))
    tvm.ir.assert_structural_equal(after, module((2, 3, 40), expected), map_free_vars=True)


def test_rounding_moves_below_what_it_commutes_with():
    def body(builder, x):
        pooled = builder.emit(relax.op.nn.max_pool2d(rounded(builder, x), (2, 2)))
        moved = builder.emit(relax.op.permute_dims(pooled, [0, 2, 3, 1]))
        again = rounded(builder, moved)
        return relax.op.matmul(again, weight(builder, np.ones((3, 5), "int8"), np.float32(1)))

    after = RecomposeQuantized()(module((1, 3, 8, 8), body))
    assert names(after) == ["nn.max_pool2d", "permute_dims", "quantized_matmul"]


def test_what_moves_integers_moves_their_floats():
    def body(builder, x):
        integers = builder.emit(relax.op.quantize(x, SCALE, ZERO, 1, "uint8"))
        pooled = builder.emit(relax.op.nn.max_pool2d(integers, (2, 2), (2, 2)))
        flat = builder.emit(relax.op.reshape(pooled, (1, 48)))
        floats = builder.emit(relax.op.dequantize(flat, SCALE, ZERO, 1))
        return relax.op.matmul(floats, weight(builder, np.ones((48, 5), "int8"), np.float32(1)))

    after = RecomposeQuantized()(module((1, 3, 8, 8), body))
    assert names(after) == ["nn.max_pool2d", "reshape", "quantized_matmul"]
    assert str(called(after)[0].ty.dtype) == "float32"


def test_integers_that_are_an_input():
    def body(builder, x):
        floats = builder.emit(relax.op.dequantize(x, SCALE, ZERO, 1))
        return relax.op.matmul(floats, weight(builder, np.ones((4, 5), "int8"), np.float32(1)))

    after = RecomposeQuantized()(module((2, 4), body, dtype="uint8"))
    assert names(after) == ["dequantize", "quantized_matmul"]


def test_other_numbers_are_rounded_twice():
    def body(builder, x):
        return rounded(builder, rounded(builder, x), relax.const(0.25, "float32"))

    assert names(RecomposeQuantized()(module((4,), body))) == ["fake_quantize", "fake_quantize"]


def test_a_layer_reads_what_was_rounded_to_other_numbers_before():
    def body(builder, x):
        coarse = builder.emit(relax.op.nn.relu(rounded(builder, x)))
        fine = rounded(builder, coarse, relax.const(0.125, "float32"), relax.const(0, "uint8"))
        return relax.op.matmul(fine, weight(builder, np.ones((4, 4), "int8"), np.float32(1)))

    after = RecomposeQuantized()(module((2, 4), body))
    assert names(after) == ["fake_quantize", "quantized_matmul"]
    rounding, layer = after["main"].body.blocks[0].bindings
    assert operators.steps_of(rounding.value) == BYTES
    assert layer.value.args[0].same_as(rounding.var)


@pytest.mark.parametrize(
    ("zero", "expected"), [(0, ["fake_quantize"]), (3, ["nn.relu", "fake_quantize"])]
)
def test_integers_that_end_at_zero_are_a_relu(zero, expected):
    def body(builder, x):
        return rounded(
            builder, builder.emit(relax.op.nn.relu(x)), SCALE, relax.const(zero, "uint8")
        )

    assert names(RecomposeQuantized()(module((4,), body))) == expected


def test_a_layer_reads_the_rounded_tensor_that_something_else_reads():
    def body(builder, x):
        seen = rounded(builder, x)
        y = relax.op.matmul(seen, weight(builder, np.ones((4, 4), "int8"), np.float32(1)))
        return relax.op.add(builder.emit(y), seen)

    after = RecomposeQuantized()(module((2, 4), body))
    assert names(after) == ["fake_quantize", "quantized_matmul", "add"]
    rounding, layer, _ = after["main"].body.blocks[0].bindings
    assert layer.value.args[0].same_as(rounding.var)


def test_a_layer_reads_the_rounded_tensor_that_something_else_reads_later():
    def body(builder, x):
        w = weight(builder, np.ones((4, 4), "int8"), np.float32(1))
        y = builder.emit(relax.op.matmul(rounded(builder, x), w))
        return relax.op.add(y, rounded(builder, x))

    after = RecomposeQuantized()(module((2, 4), body))
    assert names(after) == ["fake_quantize", "quantized_matmul", "add"]


def test_a_layer_reads_it_in_another_shape():
    def body(builder, x):
        seen = rounded(builder, x)
        w = weight(builder, np.ones((3, 3, 1), "int8"), np.float32(1))
        return relax.op.add(builder.emit(relax.op.nn.conv1d(seen, w)), seen)

    after = RecomposeQuantized()(module((2, 3, 4), body))
    assert names(after) == ["fake_quantize", "reshape", "quantized_conv2d", "reshape", "add"]
    rounding, line, layer, *_ = after["main"].body.blocks[0].bindings
    assert line.value.args[0].same_as(rounding.var)
    assert layer.value.args[0].same_as(line.var)


def run_time_layer(scale, zero, **numbers):
    """Return the layer of a module whose input is rounded by what an inference knows."""
    x = relax.Var("x", relax.TensorType((2, 4), "float32"))
    values = np.arange(-6, 6, dtype="int8").reshape(4, 3)
    builder = relax.BlockBuilder()
    params = [p for p in (x, scale, zero) if isinstance(p, relax.Var)]
    with builder.function("main", params):
        with builder.dataflow():
            if numbers:
                source = builder.emit(relax.op.nn.relu(x)) if numbers["of_other"] else x
                steps = builder.emit(operators.dynamic_range(source))
                scale, zero = parts_of(steps, builder.emit)
            seen = rounded(builder, x, scale, zero)
            w = weight(builder, values, np.float32(0.5))
            y = builder.emit_output(relax.op.matmul(seen, w))
        builder.emit_func_output(y)
    after = RecomposeQuantized()(builder.get())
    (layer,) = (c for c in called(after) if c.op.name == operators.QUANTIZED_MATMUL.name)
    np.testing.assert_array_equal(layer.args[1].value.numpy(), values)
    return after, operators.run_time_steps_of(layer)


def test_scales_that_are_known_when_the_model_runs():
    """The steps are a scale, and the distance of the zero point from the least integer."""
    scale = relax.Var("s", relax.TensorType((), "float32"))
    zero = relax.Var("z", relax.TensorType((), "uint8"))
    after, steps = run_time_layer(scale, zero)
    assert not steps.covers
    assert names(after)[-2:] == ["concat", "quantized_matmul"]


@pytest.mark.parametrize("of_other", [False, True])
def test_scales_of_the_range_of_a_tensor(of_other):
    """The layer takes the range itself, which covers only the tensor that it was found of."""
    after, steps = run_time_layer(None, None, of_other=of_other)
    assert steps.covers != of_other
    assert names(after)[-2:] == ["dynamic_range", "quantized_matmul"]


def test_scales_that_are_not_known_stay():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4,), "float32"), scale: R.Tensor((), "float32")):
            with R.dataflow():
                q = R.quantize(x, scale, R.const(3, "uint8"), axis=0, out_dtype="uint8")
                y = R.dequantize(q, scale, R.const(3, "uint8"), axis=0, out_dtype="float32")
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(RecomposeQuantized()(Before), Before)


def test_scales_of_channels_stay():
    scale, zero = relax.const(np.ones(4, "float32")), relax.const(np.zeros(4, "uint8"))
    before = module((2, 4), lambda builder, x: rounded(builder, x, scale, zero))
    tvm.ir.assert_structural_equal(RecomposeQuantized()(before), before)

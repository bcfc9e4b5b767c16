"""Convolutions on AMX against those of bfloat16 values in double precision."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.amx import from_bfloat16, pack_amx_linear, to_bfloat16
from tvm_sparse.formats.word_window import WordWindow
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.amx_conv2d import AmxConv2d, amx_conv2d
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.testing.images import conv2d_problems, conv2d_reference, image_panels, panel_image
from tvm_sparse.testing.kernels import assembly, run_in_columns, run_kernel
from tvm_sparse.tilings.amx_conv2d import AMX_CONV2D_FAMILY, AmxConv2dTiling
from tvm_sparse.tilings.layer import Layer

needs_amx = pytest.mark.skipif(
    not (native().has_matrix_unit and native().has_half),
    reason="this processor has no matrix unit for bfloat16 (AMX)",
)
PLAIN = Epilogue()
FULL = Epilogue(bias=True, residual=True, activation="relu")


def amx_cpu(cores):
    return replace(profile("sapphirerapids"), cores=cores)


def rounded(array):
    return from_bfloat16(to_bfloat16(np.asarray(array, "float32"))).astype("float64")


def on_half_panels(problem):
    widths = problem.width, problem.out_width
    lanes_in, lanes_out = (amx_cpu(1).image_lanes(width, DType.FLOAT16) for width in widths)
    return replace(problem, dtype=DType.FLOAT16, lanes_in=lanes_in, lanes_out=lanes_out)


def operands(problem, epilogue, tiling):
    """Return the operands by name, and the result in double precision."""
    rng = np.random.default_rng(0)
    shape = (problem.batch, problem.channels, problem.height, problem.width)
    x = rng.standard_normal(shape).astype("float16")
    shape = (problem.out_channels, problem.channels, *problem.kernel)
    weight = rng.standard_normal(shape).astype("float32")
    expected = conv2d_reference(rounded(x), rounded(weight), problem)
    window = WordWindow(problem)
    arrays = {
        "x": image_panels(x, problem.lanes_in, junk=7).astype("float16"),
        "weight": pack_amx_linear(window.matrix(weight), tiling.inputs),
        "distances": window.offsets(),
    }
    if epilogue.bias:
        arrays["bias"] = rng.standard_normal(len(weight)).astype("float16")
        expected += arrays["bias"][:, None, None]
    if epilogue.residual:
        residual = rng.standard_normal(expected.shape).astype("float16")
        arrays["residual"] = image_panels(residual, problem.lanes_out, junk=7).astype("float16")
        expected += residual
    return arrays, np.maximum(expected, 0) if epilogue.activation == "relu" else expected


def assert_near(y, expected):
    assert y.dtype == np.float16 and np.isfinite(y).all()
    image = panel_image(y, expected.shape)
    np.testing.assert_allclose(
        image, expected, rtol=6e-4, atol=1e-5 * np.abs(expected).max() + 1e-7
    )


def check(problem, epilogue=FULL, cores=2, tiling=None):
    cpu = amx_cpu(cores)
    tiling = tiling or AMX_CONV2D_FAMILY.default(Layer(problem), cpu)
    arrays, expected = operands(problem, epilogue, tiling)
    func = amx_conv2d(problem, epilogue, cpu, tiling)
    y = run_kernel(func, list(arrays.values()), problem.output.shape, cpu)
    assert_near(y, expected)


@needs_amx
@settings(max_examples=25, deadline=None)
@given(
    problem=conv2d_problems(native()),
    epilogue=st.sampled_from([PLAIN, FULL, Epilogue(bias=True), Epilogue(residual=True)]),
    inputs=st.sampled_from([32, 64, 256]),
    cores=st.integers(1, 3),
)
def test_any_convolution(problem, epilogue, inputs, cores):
    if problem.stride[1] == 3:
        problem = replace(problem, stride=(problem.stride[0], 2), lanes_out=64)
    check(on_half_panels(problem), epilogue, cores, AmxConv2dTiling(inputs))


def square(channels, size, out_channels, kernel, stride, padding):
    sizes = {"lanes_in": size, "lanes_out": size}
    kernels, strides, paddings = (kernel,) * 2, (stride,) * 2, (padding,) * 4
    sized = Conv2d(1, channels, size, size, out_channels, kernels, strides, paddings, **sizes)
    return on_half_panels(sized)


@needs_amx
@pytest.mark.parametrize("name", ["hardswish", "gelu", "leaky_relu(0.1)"])
@pytest.mark.parametrize("size", [5, 7, 20])
def test_activations_with_names_inside(name, size):
    problem, cpu = square(12, size, 24, 3, 1, 1), amx_cpu(2)
    tiling = AMX_CONV2D_FAMILY.default(Layer(problem), cpu)
    arrays, _ = operands(problem, FULL, tiling)
    shape, results = problem.output.shape, []
    for activation in (None, name):
        func = amx_conv2d(problem, replace(FULL, activation=activation), cpu, tiling)
        results.append(run_kernel(func, list(arrays.values()), shape, cpu)[..., :size])
    x = results[0].astype("float64")
    want = {
        "hardswish": x * np.clip(x / 6 + 0.5, 0, 1),
        "gelu": x * scipy.special.ndtr(x),
        "leaky_relu(0.1)": np.where(x < 0, 0.1 * x, x),
    }[name]
    np.testing.assert_allclose(results[1], want, rtol=2e-3, atol=4e-3)


SIZES = {
    "7x7 / 2": square(3, 64, 64, 7, 2, 3),
    "6x6 / 2": square(3, 70, 32, 6, 2, 2),
    "3x3 / 2 of 3": square(3, 65, 40, 3, 2, 1),
    "3x3": square(64, 14, 48, 3, 1, 1),
    "3x3 narrow": square(20, 7, 40, 3, 1, 1),
    "3x3 / 2 narrow": square(20, 14, 40, 3, 2, 1),
    "5x5 / 2 of 3 narrow": square(3, 14, 40, 5, 2, 2),
    "3x3 / 2": square(33, 28, 33, 3, 2, 1),
    "1x1 / 2": square(40, 28, 80, 1, 2, 0),
    "8x8 / 8": square(3, 64, 32, 8, 8, 0),
    "16x16 / 16": square(3, 64, 48, 16, 16, 0),
    "4x4 / 4 of 1": square(1, 48, 20, 4, 4, 0),
}


@needs_amx
@pytest.mark.parametrize("name", list(SIZES))
def test_convolutions_of_networks(name):
    check(SIZES[name])


def test_pairs_of_few_channels_are_pixels():
    assert WordWindow(SIZES["7x7 / 2"]).pairs_pixels
    assert WordWindow(SIZES["6x6 / 2"]).words == 3 * 6 * 3
    assert not WordWindow(SIZES["3x3"]).pairs_pixels


@needs_amx
@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.parametrize("name", ["7x7 / 2", "3x3"])
def test_in_columns(name, step):
    problem, cpu = SIZES[name], amx_cpu(2)
    arrays, expected = operands(problem, FULL, AMX_CONV2D_FAMILY.default(Layer(problem), cpu))
    y = run_in_columns(AmxConv2d(problem, FULL, cpu), arrays, ColumnPlan(5, step), cpu)
    assert_near(y, expected)


@needs_amx
def test_images_in_place():
    problem, cpu = square(4, 32, 16, 3, 1, 1), amx_cpu(2)
    arrays, expected = operands(problem, PLAIN, AMX_CONV2D_FAMILY.default(Layer(problem), cpu))
    x = arrays["x"].reshape(32, 4, 32).transpose(1, 0, 2)[None].astype("float32")
    stage = AmxConv2d(problem, PLAIN, cpu, reads_image=True, writes_image=True)
    inputs = [np.ascontiguousarray(x), arrays["weight"], arrays["distances"]]
    y = run_kernel(kernel(stage), inputs, (1, 16, 32, 32), cpu)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=6e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", list(SIZES))
def test_compiles_for_another_machine(name):
    text = assembly(amx_conv2d(SIZES[name], FULL, amx_cpu(2)), amx_cpu(2))
    assert all(word in text for word in ("ldtilecfg", "tdpbf16ps", "tilerelease", "syscall"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"groups": 4, "channels": 16, "out_channels": 16}, "groups"),
        ({"stride": (1, 3)}, "3 pixels"),
        ({"dtype": DType.FLOAT32}, "float32"),
    ],
)
def test_refusals_have_a_reason(changes, reason):
    problem = replace(SIZES["3x3"], **changes)
    with pytest.raises(ValueError, match=reason):
        AmxConv2d(problem, PLAIN, amx_cpu(2))

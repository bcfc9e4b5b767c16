"""The numbers of dynamic quantization, and panels that are rounded to them, against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import native
from tvm_sparse.dtypes import FLOATS, DType
from tvm_sparse.formats.quantization import Quantization
from tvm_sparse.formats.words import WordForm
from tvm_sparse.schedules.operators.dequantize_words import DequantizeWords
from tvm_sparse.schedules.operators.dynamic_range import Valid, dynamic_range
from tvm_sparse.schedules.operators.quantize_words import quantize_words
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.kernels import run_kernel
from tvm_sparse.testing.quantized import distances, words_of

FORMS = {"bytes": WordForm(), "signed": WordForm(4, True), "halves": WordForm(2)}


def steps_of(values):
    """Return the scale and the zero point as ONNX defines them."""
    low, high = (np.float32(end) for end in (min(values.min(), 0), max(values.max(), 0)))
    scale = (high - low) / np.float32(255) if high > low else np.float32(1)
    return np.array([scale, np.rint(np.clip((0 - low) / scale, 0, 255))], "float32")


@pytest.mark.parametrize("shape", [(1,), (17,), (64, 100), (5, 7, 129), (200, 333)])
@pytest.mark.parametrize("shift", [-9.0, 0.0, 9.0])
def test_ranges_of_tensors(shape, shift):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32") + np.float32(shift)
    got = run_kernel(dynamic_range(shape, None, native()), [x], (2,))
    np.testing.assert_array_equal(got, steps_of(x))


def test_zeros_have_a_scale_of_one():
    got = run_kernel(dynamic_range((40,), None, native()), [np.zeros(40, "float32")], (2,))
    np.testing.assert_array_equal(got, [1, 0])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("rows", "channels", "lanes", "period", "extent"),
    [
        (4, 5, 16, 2, 20),
        (4, 30, 8, 4, 25),
        (6, 700, 48, 3, 130),
        (3, 9, 64, 1, 7),
        (2, 3, 16, 1, 16),
    ],
)
def test_lanes_without_values_do_not_count(dtype, rows, channels, lanes, period, extent):
    if dtype == DType.FLOAT16 and not native().has_half:
        pytest.skip("this processor has no arithmetic of float16")
    panels = np.random.default_rng(0).standard_normal((rows, channels, lanes)).astype(dtype)
    token = np.arange(rows)[:, None] % period * lanes + np.arange(lanes)
    held = np.broadcast_to((token < extent)[:, None], panels.shape)
    want = steps_of(panels[held].astype("float32"))
    panels[~held] = 1e4
    func = dynamic_range(panels.shape, Valid(period, extent), native(), dtype)
    np.testing.assert_array_equal(run_kernel(func, [panels], (2,)), want)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("covers", [True, False])
@settings(max_examples=4, deadline=None)
@given(
    rows=st.integers(1, 5),
    channels=st.integers(1, 140),
    lanes=st.sampled_from([1, 8, 48]),
    size=st.sampled_from([1e-39, 1e-37, 1e-3, 20.0, 1e30]),
    shift=st.floats(-3, 3),
)
def test_words_of_panels(form, covers, rows, channels, lanes, size, shift):
    x = np.random.default_rng(0).standard_normal((rows, channels, lanes)) + shift
    x = (x * size).astype("float32")
    steps = steps_of(x)
    # A division of float32 decides, as in ONNX Runtime.
    known = Quantization(1.0, int(steps[1]), 0, 255)
    want, _ = words_of(x / steps[0], known, FORMS[form])
    tensor = Tensor(1, rows, channels, lanes)
    func = quantize_words(tensor, FORMS[form], covers, native())
    np.testing.assert_array_equal(run_kernel(func, [x, steps], want.shape), want)


def test_values_far_outside_are_the_last_integers():
    x = np.array([-3e38, -1e9, -1, 1, 1e9, 3e38, np.inf, -np.inf], "float32").reshape(1, 8, 1)
    steps = np.array([1e-9, 100], "float32")
    func = quantize_words(Tensor(1, 1, 8, 1), WordForm(), False, native())
    got = run_kernel(func, [x, steps], (1, 2, 1)).view("uint8").ravel()
    np.testing.assert_array_equal(got, [0, 0, 0, 255, 255, 255, 255, 0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("channels", "lanes"), [(7, 16), (64, 48), (9, 1)])
def test_floats_of_words(form, channels, lanes):
    steps = Quantization(0.3, 70, 0, 255)
    x = np.random.default_rng(0).standard_normal((3, channels, lanes)).astype("float32") * 60
    words, given_ = words_of(x, steps, FORMS[form])
    source = Tensor(1, 3, words.shape[1], lanes, DType.WORDS)
    stage = DequantizeWords(source, channels, FORMS[form], DType.FLOAT32, native())
    want = distances(x, steps).astype("float32") * np.float32(0.3)
    np.testing.assert_array_equal(run_kernel(kernel(stage), [words, given_], x.shape), want)

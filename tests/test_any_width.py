"""One library for images of any width."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.cpu.profile import native
from tvm_sparse.errors import InputError
from tvm_sparse.testing.kernels import relative_rms
from tvm_sparse.testing.models import onnxruntime_outputs, pruned, write_onnx

HEIGHT = 24
STRIDE = 8
SAME, HALF = {"pads": [1] * 4}, {"pads": [1] * 4, "strides": [2, 2]}


def weight(rng, *shape, density=1.0):
    scale = np.float32(np.sqrt(max(density, 0.1) * np.prod(shape[1:])))
    return pruned(rng, shape, density) / scale


def write(path, height=HEIGHT, width="width"):
    """Write a recognizer of lines with all operators that work on strips."""
    rng = np.random.default_rng(0)
    floor = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    weights = {
        "w0": weight(rng, 16, 3, 3, 3),
        "b0": rng.standard_normal(16).astype("float32"),
        "w1": weight(rng, 32, 16, 3, 3, density=0.1),
        "w2": weight(rng, 32, 1, 5, 5),
        "w3": weight(rng, 16, 32, 1, 1, density=0.2),
        "w4": weight(rng, 32, 32, 3, 3, density=0.1),
        "w5": weight(rng, 32, 32, 1, 1, density=0.2),
        "w6": weight(rng, 8, 64, 3, 3),
        "w7": weight(rng, 8, 24, 1, 3),
        "w8": weight(rng, 8, 20),
        "w9": weight(rng, 32, 32, 2, 2),
        "twice": np.array([1, 1, 2, 2], "float32"),
    }
    nodes = [
        make_node("Conv", ["x", "w0", "b0"], ["c0"], **HALF),
        make_node("HardSwish", ["c0"], ["a"]),
        make_node("Conv", ["a", "w1"], ["c1"], pads=[1] * 4, strides=[2, 1]),
        make_node("Sub", ["c1", "bias"], ["k1"]),
        make_node("Conv", ["k1", "w2"], ["d"], group=32, pads=[2] * 4),
        make_node("MaxPool", ["d"], ["p"], kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 2]),
        make_node("Conv", ["p", "w3"], ["q"]),
        make_node("Split", ["q"], ["left", "right"], axis=1),
        make_node("Concat", ["right", "q", "left"], ["j"], axis=1),
        make_node("Conv", ["j", "w4"], ["c4"], **HALF),
        make_node("GlobalAveragePool", ["c4"], ["g"]),
        make_node("GlobalMaxPool", ["c4"], ["most"]),
        make_node("Add", ["g", "most"], ["both"]),
        make_node("Conv", ["both", "w5"], ["s"]),
        make_node("Sigmoid", ["s"], ["share"]),
        make_node("Mul", ["c4", "share"], ["m"]),
        make_node("AveragePool", ["m"], ["v"], kernel_shape=[3, 3], count_include_pad=1, **SAME),
        make_node("Resize", ["v", "", "twice"], ["near"], mode="nearest", **floor),
        make_node("Add", ["near", "j"], ["sum"]),
        make_node("ConvTranspose", ["v", "w9"], ["up"], strides=[2, 2]),
        make_node("Add", ["sum", "up"], ["all"]),
        make_node("Concat", ["near", "all"], ["u"], axis=1),
        make_node("Conv", ["u", "w6"], ["o"], **SAME),
        make_node("AveragePool", ["o"], ["t"], kernel_shape=[2, 2], strides=[2, 2]),
        make_node("Add", ["t", "t"], ["tt"]),
        make_node("Concat", ["t", "tt", "t"], ["e"], axis=1),
        make_node("Conv", ["e", "w7"], ["f"], pads=[0, 1, 0, 1]),
        make_node("ReduceMean", ["f"], ["line"], axes=[2], keepdims=0),
        make_node("Transpose", ["line"], ["tokens"], perm=[0, 2, 1]),
        make_node("MatMul", ["tokens", "w8"], ["scores"]),
        make_node("Softmax", ["scores"], ["y"], axis=-1),
    ]
    weights["bias"] = rng.standard_normal((1, 32, 1, 1)).astype("float32")
    inputs = {"x": ["images", 3, height, width]}
    return write_onnx(path, nodes, inputs, ["y", "g", "o"], weights, 14)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(tmp_path_factory.mktemp("width") / "model.onnx")


@pytest.fixture(scope="module")
def engine(model):
    return tvm_sparse.compile(model, hints={"width": 320})


@pytest.fixture(scope="module")
def other(model):
    """The same network, planned for other sizes."""
    hints = {"width": 40, "images": 6}
    return tvm_sparse.compile(model, hints=hints, columns="off", threads=3, bounds={"width": 800})


def image(rng, images, height, width):
    return {"x": rng.standard_normal((images, 3, height, width)).astype("float32")}


def assert_close(outputs, expected):
    for name, want in expected.items():
        np.testing.assert_allclose(outputs[name], want, rtol=1e-4, atol=1e-5)


def test_any_width_whatever_the_hint(model, engine, other):
    assert engine.inputs[0].shape == ("images", 3, HEIGHT, "width")
    assert engine.info.multiples == {"width": STRIDE}
    assert "conv" not in engine.report.kept_by_tvm
    assert "recut_strips" in {region["operators"][0] for region in engine.report.regions}
    assert {"sparse_conv2d", "depthwise_conv2d"} <= {layer.kernel for layer in engine.report.layers}
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (2, 1), (1, 2), (3, 5), (1, 100), (1, 8), (1, 9), (2, 16), (1, 17)]
    sizes += np.stack([rng.integers(1, 4, 11), rng.integers(1, 90, 11)], 1).tolist()
    for images, count in sizes:
        given = image(rng, images, HEIGHT, count * STRIDE)
        expected = onnxruntime_outputs(model, given)
        assert_close(engine.run(given), expected)
        assert_close(other.run(given), expected)


@pytest.mark.skipif(not native().has_half, reason="this CPU has no float16 arithmetic")
def test_any_width_in_float16(model):
    engine = tvm_sparse.compile(model, precision="float16")
    assert "float16" in {layer.precision for layer in engine.report.layers}
    rng = np.random.default_rng(0)
    for images, count in [(1, 1), (3, 5), (1, 17), (1, 60)]:
        given = image(rng, images, HEIGHT, count * STRIDE)
        outputs = engine.run(given)
        for name, want in onnxruntime_outputs(model, given).items():
            assert relative_rms(outputs[name], want) < 1e-2


def test_sizes_that_a_library_refuses(other):
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"'width' is 20, and .* need a multiple of 8; resize"):
        other.run(image(rng, 1, HEIGHT, 20))
    with pytest.raises(InputError, match=r"'width' is 808, and the library was .* up to 800"):
        other.run(image(rng, 1, HEIGHT, 808))


def test_height_and_width_of_a_saved_library(tmp_path):
    path = write(tmp_path / "model.onnx", "height")
    tvm_sparse.compile(path, threads=2).save(tmp_path / "model.so")
    engine = tvm_sparse.load(tmp_path / "model.so")
    assert engine.info.multiples == {"height": 8, "width": STRIDE}
    rng = np.random.default_rng(0)
    for images, height, width in ((1, 8, 8), (1, 32, 264), (2, 16, 80), (1, 40, 520)):
        given = image(rng, images, height, width)
        assert_close(engine.run(given), onnxruntime_outputs(path, given))


def small(path, nodes, weights, width="pixels"):
    return write_onnx(path, nodes, {"x": [1, 3, 12, width]}, ["y"], weights, 14)


@pytest.mark.parametrize(
    ("attributes", "of_axis"),
    [
        ({"strides": [2, 2]}, 3),
        ({"pads": [0, 3, 1, 2], "dilations": [2, 3]}, 3),
        ({"pads": [0, 20, 0, 20], "dilations": [1, 20]}, 3),
        ({"pads": [0, 0, 0, 1]}, 2),
    ],
)
def test_windows_of_any_kind(tmp_path, attributes, of_axis):
    rng = np.random.default_rng(0)
    weights = {"w": weight(rng, 16, 3, 3, of_axis), "v": weight(rng, 16, 16, 1, 3, density=0.1)}
    nodes = [make_node("Conv", ["x", "w"], ["c"], **attributes), make_node("Tanh", ["c"], ["t"])]
    nodes.append(make_node("Conv", ["t", "v"], ["y"], pads=[0, 1, 0, 1]))
    path = small(tmp_path / "model.onnx", nodes, weights)
    engine = tvm_sparse.compile(path)
    for width in (8, 30, 64, 66, 128, 130, 322):
        given = {"x": rng.standard_normal((1, 3, 12, width)).astype("float32")}
        assert_close(engine.run(given), onnxruntime_outputs(path, given))


@pytest.mark.parametrize(
    ("layer", "direction"), [("LSTM", "bidirectional"), ("GRU", "reverse"), ("RNN", "forward")]
)
def test_recurrent_layers_take_the_steps_of_any_width(tmp_path, layer, direction):
    rng, hidden = np.random.default_rng(0), 24
    gates, directions = {"LSTM": 4, "GRU": 3, "RNN": 1}[layer], 1 + (direction == "bidirectional")
    weights = {
        "w0": weight(rng, 16, 3, 3, 3),
        "w": weight(rng, directions, gates * hidden, 16),
        "r": weight(rng, directions, gates * hidden, hidden, density=0.2),
    }
    nodes = [
        make_node("Conv", ["x", "w0"], ["c"], **HALF),
        make_node("MaxPool", ["c"], ["p"], kernel_shape=[6, 1]),
        make_node("Squeeze", ["p", "two"], ["s"]),
        make_node("Transpose", ["s"], ["t"], perm=[2, 0, 1]),
        make_node(layer, ["t", "w", "r"], ["y"], hidden_size=hidden, direction=direction),
    ]
    path = small(tmp_path / "model.onnx", nodes, weights | {"two": np.array([2])})
    engine = tvm_sparse.compile(path, {"x": (1, 3, 12, "pixels")}, hints={"pixels": 100})
    for width in (2, 32, 34, 36, 302):
        given = {"x": rng.standard_normal((1, 3, 12, width)).astype("float32")}
        assert_close(engine.run(given), onnxruntime_outputs(path, given))


def test_sound_of_any_length(tmp_path):
    rng = np.random.default_rng(0)
    weights = {"w": weight(rng, 32, 1, 5), "v": weight(rng, 32, 32, 3, density=0.2)}
    nodes = [
        make_node("Conv", ["x", "w"], ["c"], pads=[2, 1], strides=[2]),
        make_node("Relu", ["c"], ["r"]),
        make_node("Conv", ["r", "v"], ["d"], pads=[1, 1]),
        make_node("Add", ["r", "d"], ["y"]),
    ]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": ["n", 1, "samples"]}, ["y"], weights, 13)
    engine = tvm_sparse.compile(path, {"x": ("n", 1, "samples")}, hints={"samples": 4000})
    assert engine.info.multiples == {} and not engine.report.kept_by_tvm
    for sounds, samples in ((1, 2), (2, 255), (1, 258), (3, 1001)):
        given = {"x": rng.standard_normal((sounds, 1, samples)).astype("float32")}
        assert_close(engine.run(given), onnxruntime_outputs(path, given))


def test_what_has_no_strips_is_slow_with_a_word(tmp_path, caplog):
    rng = np.random.default_rng(0)
    nodes = [make_node("Conv", ["x", "w"], ["c"], **SAME)]
    nodes.append(make_node("Resize", ["c", "", "twice"], ["y"], mode="linear"))
    weights = {"w": weight(rng, 16, 3, 3, 3), "twice": np.array([1, 1, 2, 2], "float32")}
    path = small(tmp_path / "model.onnx", nodes, weights)
    with pytest.raises(InputError, match=r"dimension 3 \('pixels'\) is dynamic"):
        tvm_sparse.compile(path)
    with caplog.at_level(logging.WARNING, "tvm_sparse"):
        engine = tvm_sparse.compile(path, {"x": (1, 3, 12, "pixels")})
    assert "1 image.resize2d" in caplog.text
    given = {"x": rng.standard_normal((1, 3, 12, 50)).astype("float32")}
    assert_close(engine.run(given), onnxruntime_outputs(path, given))


def test_pixels_that_attend_to_their_row(tmp_path):
    rng = np.random.default_rng(0)
    weights = {"w0": weight(rng, 16, 3, 3, 3), "q": weight(rng, 16, 16), "k": weight(rng, 16, 16)}
    nodes = [
        make_node("Conv", ["x", "w0"], ["c"], **HALF),
        make_node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        make_node("MatMul", ["t", "q"], ["a"]),
        make_node("MatMul", ["t", "k"], ["b"]),
        make_node("Transpose", ["b"], ["bt"], perm=[0, 1, 3, 2]),
        make_node("MatMul", ["a", "bt"], ["s"]),
        make_node("Softmax", ["s"], ["p"], axis=-1),
        make_node("MatMul", ["p", "t"], ["y"]),
    ]
    inputs = {"x": ["n", 3, "height", "width"]}
    path = write_onnx(tmp_path / "m.onnx", nodes, inputs, ["y"], weights, 14)
    engine = tvm_sparse.compile(path)
    assert not engine.info.fallbacks and not engine.report.kept_by_tvm
    for sizes in ((1, 8, 16), (2, 5, 41)):
        given = image(rng, *sizes)
        assert_close(engine.run(given), onnxruntime_outputs(path, given))

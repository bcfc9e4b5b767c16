"""One library for images of any height."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.cpu.profile import native
from tvm_sparse.errors import InputError
from tvm_sparse.testing.kernels import relative_rms
from tvm_sparse.testing.models import onnxruntime_outputs, pruned, write_onnx

WIDTH = 24
STRIDE = 8


def weight(rng, *shape, density=1.0):
    scale = np.float32(np.sqrt(max(density, 0.1) * np.prod(shape[1:])))
    return pruned(rng, shape, density) / scale


def write(path, width=WIDTH, height="height"):
    """Write a network of all operators of images, which enlarges and joins what it made smaller."""
    rng = np.random.default_rng(0)
    same, half = {"pads": [1] * 4}, {"pads": [1] * 4, "strides": [2, 2]}
    floor = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    weights = {
        "w0": weight(rng, 16, 3, 3, 3),
        "b0": rng.standard_normal(16).astype("float32"),
        "w1": weight(rng, 32, 16, 3, 3, density=0.1),
        "w2": weight(rng, 32, 1, 3, 3),
        "w3": weight(rng, 16, 32, 1, 1, density=0.2),
        "w4": weight(rng, 32, 32, 3, 3, density=0.1),
        "w5": weight(rng, 32, 32, 1, 1, density=0.2),
        "w6": weight(rng, 8, 96, 3, 3),
        "twice": np.array([1, 1, 2, 2], "float32"),
        "four": np.array([1, 1, 4, 4], "float32"),
    }
    nodes = [
        make_node("Conv", ["x", "w0", "b0"], ["c0"], **half),
        make_node("Relu", ["c0"], ["a"]),
        make_node("Conv", ["a", "w1"], ["c1"], **same),
        make_node("Clip", ["c1"], ["k1"]),
        make_node("Conv", ["k1", "w2"], ["d"], group=32, **same),
        make_node("MaxPool", ["d"], ["p"], kernel_shape=[3, 3], **half),
        make_node("Conv", ["p", "w3"], ["q"]),
        make_node("Split", ["q"], ["left", "right"], axis=1),
        make_node("Concat", ["right", "q", "left"], ["j"], axis=1),
        make_node("Conv", ["j", "w4"], ["c4"], **half),
        make_node("GlobalAveragePool", ["c4"], ["g"]),
        make_node("Conv", ["g", "w5"], ["s"]),
        make_node("Sigmoid", ["s"], ["share"]),
        make_node("Mul", ["c4", "share"], ["m"]),
        make_node("AveragePool", ["m"], ["v"], kernel_shape=[3, 3], **same),
        make_node("Resize", ["v", "", "twice"], ["near"], mode="nearest", **floor),
        make_node("Resize", ["m", "", "twice"], ["far"], mode="linear"),
        make_node("Concat", ["near", "far", "j"], ["u"], axis=1),
        make_node("Conv", ["u", "w6"], ["o"], **same),
        make_node("Resize", ["o", "", "four"], ["y"], mode="linear"),
    ]
    return write_onnx(path, nodes, {"x": ["images", 3, height, width]}, ["y", "g"], weights, 13)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(tmp_path_factory.mktemp("height") / "model.onnx")


@pytest.fixture(scope="module")
def engine(model):
    """Columns of few rows, so that most heights have several of them."""
    return tvm_sparse.compile(model, hints={"height": 40}, columns=3)


@pytest.fixture(scope="module")
def other(model):
    """The same network, planned for other sizes."""
    return tvm_sparse.compile(
        model, hints={"height": 1600, "images": 6}, columns="off", threads=3, bounds={"height": 400}
    )


def image(rng, images, height):
    return {"x": rng.standard_normal((images, 3, height, WIDTH)).astype("float32")}


def assert_close(outputs, expected):
    for name, want in expected.items():
        np.testing.assert_allclose(outputs[name], want, rtol=1e-4, atol=1e-5)


def test_any_height_whatever_the_hint(model, engine, other):
    assert engine.inputs[0].shape == ("images", 3, "height", WIDTH)
    assert engine.info.multiples == {"height": STRIDE}
    assert not engine.report.kept_by_tvm
    assert {"sparse_conv2d", "depthwise_conv2d"} <= {layer.kernel for layer in engine.report.layers}
    windows = {"sparse_conv2d", "depthwise_conv2d", "conv2d", "avg_pool2d", "bilinear2d"}
    later = {name for region in engine.report.regions for name in region["operators"][1:]}
    assert len(windows & later) > 2  # they read rows that stages of their region computed
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (2, 1), (1, 2), (3, 5), (1, 50), *rng.integers(1, 20, (6, 2)).tolist()]
    for images, count in sizes:
        given = image(rng, images, count * STRIDE)
        expected = onnxruntime_outputs(model, given)
        assert_close(engine.run(given), expected)
        assert_close(other.run(given), expected)


@pytest.mark.skipif(not native().has_half, reason="this CPU has no float16 arithmetic")
def test_any_height_in_float16(model):
    engine = tvm_sparse.compile(model, precision="float16")
    assert "float16" in {layer.precision for layer in engine.report.layers}
    rng = np.random.default_rng(0)
    for images, count in [(1, 1), (3, 5), (1, 50)]:
        given = image(rng, images, count * STRIDE)
        outputs = engine.run(given)
        for name, want in onnxruntime_outputs(model, given).items():
            assert relative_rms(outputs[name], want) < 1e-2


def test_sizes_that_a_library_refuses(other):
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"'height' is 20, and .* need a multiple of 8; resize"):
        other.run(image(rng, 1, 20))
    with pytest.raises(InputError, match=r"'height' is 408, and the library was .* up to 400"):
        other.run(image(rng, 1, 408))


def test_a_saved_library_keeps_the_multiple(engine, tmp_path):
    engine.save(tmp_path / "model.so")
    loaded = tvm_sparse.load(tmp_path / "model.so")
    assert loaded.info.multiples == {"height": STRIDE}
    given = image(np.random.default_rng(0), 2, 64)
    for name, output in engine.run(given).items():
        np.testing.assert_array_equal(loaded.run(given)[name], output)


def small(path, size, stride=2):
    rng = np.random.default_rng(0)
    nodes = [make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4, strides=[stride] * 2)]
    nodes.append(make_node("Relu", ["c"], ["y"]))
    return write_onnx(path, nodes, {"x": size}, ["y"], {"w": weight(rng, 16, 3, 3, 3)}, 13)


def test_several_hints_and_a_verified_file(tmp_path):
    path = small(tmp_path / "model.onnx", [1, 3, "rows", 32])
    engine = tvm_sparse.compile(path, hints={"rows": (64, 640)}, verify=True)
    for rows in (2, 300, 900):
        given = {"x": np.random.default_rng(0).standard_normal((1, 3, rows, 32), "float32")}
        assert_close(engine.run(given), onnxruntime_outputs(path, given))


def test_heights_that_the_strides_do_not_divide_evenly(tmp_path):
    rng = np.random.default_rng(0)
    nodes = [make_node("Conv", ["x", "w"], ["y"], strides=[2, 2])]  # 9 rows become 4
    weights = {"w": weight(rng, 16, 3, 3, 3)}
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, 3, "rows", 17]}, ["y"], weights, 13)
    engine = tvm_sparse.compile(path)
    for rows in (4, 10, 42):
        given = {"x": rng.standard_normal((1, 3, rows, 17)).astype("float32")}
        assert_close(engine.run(given), onnxruntime_outputs(path, given))


def test_fixed_heights_have_no_multiple(tmp_path):
    path = small(tmp_path / "model.onnx", ["images", 3, 32, 32])
    assert tvm_sparse.compile(path).info.multiples == {}

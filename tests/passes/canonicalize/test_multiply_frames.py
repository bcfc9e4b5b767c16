"""Short-time Fourier transforms, written as convolutions, are products of frames."""

import numpy as np
import pytest
from onnx.helper import make_node
from tvm import relax

import tvm_sparse
from tvm_sparse.passes.canonicalize.multiply_frames import MultiplyFrames
from tvm_sparse.testing.models import dataflow, onnxruntime_outputs, operators_of, write_onnx


def filters(channels, taps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((channels, 1, taps)).astype("float32") / taps**0.5


@pytest.mark.parametrize(
    ("batch", "length", "channels", "taps", "stride"),
    [
        (1, 640, 258, 256, 128),  # four frames
        (1, 3001, 257, 512, 160),  # a stride that divides nothing, and a rest of the signal
        (3, 1100, 129, 600, 75),  # several signals
        (1, 512, 130, 512, 100),  # one frame
    ],
)
def test_both_parts_of_a_transform_read_the_same_frames(
    batch, length, channels, taps, stride, tmp_path
):
    path = tmp_path / "model.onnx"
    weights = {name: filters(channels, taps, seed) for seed, name in enumerate(("re", "im"))}
    nodes = [
        make_node("Conv", ["x", "re"], ["a"], "real", strides=[stride]),
        make_node("Conv", ["x", "im"], ["b"], "imaginary", strides=[stride]),
        make_node("Mul", ["a", "a"], ["aa"]),
        make_node("Mul", ["b", "b"], ["bb"]),
        make_node("Add", ["aa", "bb"], ["power"]),
        make_node("Sqrt", ["power"], ["y"]),
    ]
    write_onnx(path, nodes, {"x": [batch, 1, length]}, ["y"], weights)
    x = np.random.default_rng(9).standard_normal((batch, 1, length)).astype("float32")
    engine = tvm_sparse.compile(path)
    expected = onnxruntime_outputs(path, {"x": x})["y"]
    np.testing.assert_allclose(engine.run([x])["y"], expected, rtol=1e-4, atol=1e-4)
    assert {layer.name for layer in engine.report.layers} == {"real", "imaginary"}


def signal(channels=200, taps=400, shape=(1, 1, 2000), **attributes):
    weight = np.repeat(filters(channels, taps), shape[1], axis=1)

    def body(emit, x):
        return emit(relax.op.nn.conv1d(x, relax.const(weight), **attributes))

    return dataflow(body, shape)


def test_they_are_found_once():
    found = operators_of(MultiplyFrames()(signal(strides=100)))
    assert found == ["call_tir", "matmul", "permute_dims"]


@pytest.mark.parametrize(
    "options",
    [
        {"strides": 1},  # the frames would hold each value 400 times
        {"strides": 100, "padding": 10},
        {"strides": 100, "dilation": 2},
        {"strides": 10, "taps": 20},  # small filters
        {"strides": 100, "shape": (1, 2, 2000)},  # several channels
    ],
    ids=str,
)
def test_other_convolutions_stay(options):
    assert operators_of(MultiplyFrames()(signal(**options))) == ["nn.conv1d"]

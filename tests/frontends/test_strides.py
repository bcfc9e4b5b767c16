"""The numbers that must divide open heights and widths of images."""

import itertools

import numpy as np
import pytest
from onnx.helper import make_node

from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.frontends.strides import WIDTH, multiples_of, total_stride
from tvm_sparse.testing.models import write_onnx

HALF = {"kernel_shape": [2, 2], "strides": [2, 2]}
SCALES = np.array([1, 1, 2, 2], "float32")


def halved(count):
    names = ["x", *(f"h{i}" for i in range(count))]
    pairs = itertools.pairwise(names)
    return [make_node("MaxPool", [a], [b], **HALF) for a, b in pairs], names[-1]


def twice(name, after):
    return [make_node("Resize", ["h2", "", "s"], ["u"]), make_node(name, ["u"], ["y"], **after)]


def model_of(tmp_path, nodes, output, weights=None):
    path = write_onnx(
        tmp_path / "m.onnx", nodes, {"x": ["n", 4, "rows", 64]}, [output], weights or {}, 13
    )
    return read_model(path)[0]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], 8),
        ([make_node("MaxPool", ["h2"], ["y"], kernel_shape=[3, 3], strides=[3, 3])], 24),
        ([make_node("MaxPool", ["h2"], ["y"], kernel_shape=[2, 2], strides=[1, 2])], 8),
        (twice("MaxPool", HALF), 8),
        ([*twice("MaxPool", HALF), make_node("MaxPool", ["y"], ["z"], **HALF)], 16),
        ([make_node("DepthToSpace", ["h2"], ["y"], blocksize=2)], 8),
        ([make_node("SpaceToDepth", ["h2"], ["y"], blocksize=2)], 16),
    ],
)
def test_strides_are_multiplied_and_enlargements_divide(tmp_path, more, expected):
    nodes, last = halved(3)
    output = more[-1].output[0] if more else last
    model = model_of(tmp_path, [*nodes, *more], output, {"s": SCALES})
    assert total_stride(model) == expected


def test_an_image_that_gets_the_size_of_another_one_has_its_stride(tmp_path):
    nodes, last = halved(3)
    nodes += [
        make_node("Shape", ["h0"], ["size"]),
        make_node("Resize", [last, "", "", "size"], ["u"]),
        make_node("Concat", ["u", "h0"], ["j"], axis=1),
        make_node("MaxPool", ["j"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    assert total_stride(model_of(tmp_path, nodes, "y")) == 8


def test_only_open_heights_of_images_have_multiples(tmp_path):
    nodes, last = halved(2)
    model = model_of(tmp_path, nodes, last)
    assert multiples_of(model, {"x": ("n", 4, "rows", 64)}) == {"rows": 4}
    assert multiples_of(model, {"x": ("n", 4, 32, 64)}) == {}
    assert multiples_of(model, {"x": ("n", "rows", 64)}) == {}
    relu = model_of(tmp_path, [make_node("Relu", ["x"], ["y"])], "y")
    assert multiples_of(relu, {"x": ("n", 4, "rows", 64)}) == {}


def test_widths_have_the_strides_of_their_own_axis(tmp_path):
    nodes, last = halved(2)
    nodes.append(make_node("MaxPool", [last], ["y"], kernel_shape=[1, 3], strides=[1, 3]))
    model = model_of(tmp_path, nodes, "y")
    assert multiples_of(model, {"x": ("n", 4, 32, "pixels")}) == {"pixels": 12}
    assert multiples_of(model, {"x": ("n", 4, "rows", "pixels")}) == {"rows": 4, "pixels": 12}
    assert multiples_of(model, {"x": ("n", 4, "side", "side")}) == {"side": 12}


def test_sound_has_the_strides_of_its_only_axis(tmp_path):
    wave = {"kernel_shape": [4], "strides": [4]}
    nodes = [make_node("MaxPool", ["x"], ["h"], **wave), make_node("MaxPool", ["h"], ["y"], **wave)]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": ["n", 4, "samples"]}, ["y"], {}, 13)
    model = read_model(path)[0]
    assert multiples_of(model, {"x": ("n", 4, "samples")}) == {"samples": 16}


def test_a_slice_of_every_second_pixel_is_a_stride(tmp_path):
    nodes, last = halved(2)
    names = ("start", "end", "axes", "steps")
    nodes.append(make_node("Slice", [last, *names], ["y"]))
    arrays = ([0, 0], [99, 99], [2, 3], [2, 4])
    weights = {name: np.int64(array) for name, array in zip(names, arrays, strict=True)}
    model = model_of(tmp_path, nodes, "y", weights)
    assert (total_stride(model), total_stride(model, WIDTH)) == (8, 16)

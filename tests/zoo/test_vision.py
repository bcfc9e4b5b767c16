import re

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import tvm_sparse
from tvm_sparse.zoo import recipes
from tvm_sparse.zoo.vision_builder import VisionBuilder

TINY = ("resnet-tiny", "mobilenet-tiny", "efficientnet-tiny", "yolo-tiny")

# Parameters of torchvision's and Ultralytics' models, each batch normalization folded into the
# bias of its convolution.
PARAMETERS = {
    "resnet50": 25_557_032 - 26_560,
    "mobilenet-v2": 3_504_872 - 17_056,
    "efficientnet-b0": 5_288_548 - 21_008,
    "yolov5s": 7_225_885,
    "yolov8n": 3_151_904,
}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Return the path of a model; each is built once."""
    folder = tmp_path_factory.mktemp("models")

    def build(name):
        path = folder / f"{name}.onnx"
        return path if path.exists() else recipes.recipe(name).build(path)

    return build


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path, shape, seed=0):
    session = session_of(path)
    x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def weights_of(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("family", [*TINY, *PARAMETERS, "mobilenet-v1", "conv-stack"])
def test_models_are_valid_and_their_outputs_depend_on_the_input(build, family):
    path = build(f"{family}-90")
    onnx.checker.check_model(path, full_check=True)
    (shape,) = recipes.recipe(f"{family}-90").shapes.values()
    first, second = (run(path, shape, seed) for seed in (0, 1))
    assert np.abs(first - second).max() > 0.2 * np.abs(first).max()


@pytest.mark.parametrize("family", PARAMETERS)
def test_sizes_are_the_published_ones(build, family):
    weights = weights_of(build(f"{family}-90"))
    assert sum(w.size for w in weights.values() if w.dtype == np.float32) == PARAMETERS[family]


@pytest.mark.parametrize("family", TINY)
def test_every_layer_keeps_the_signal(build, family):
    model = onnx.load(build(f"{family}-90"))
    convolutions = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in convolutions)
    session = session_of(model.SerializeToString())
    (shape,) = recipes.recipe(f"{family}-90").shapes.values()
    x = np.random.default_rng(1).standard_normal((4, *shape[1:]), np.float32)
    for name, y in zip(
        convolutions, session.run(None, {session.get_inputs()[0].name: x}), strict=True
    ):
        if y.shape[-1] > 1 and "dfl" not in name:
            assert 0.3 < y.std() < 3, name


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("percent", [0, 80])
def test_sparsity_is_exact_and_the_rest_dense(build, family, percent):
    path = build(f"{family}-{percent}")
    weights = weights_of(path)
    nodes = [n for n in onnx.load(path).graph.node if n.op_type in ("Conv", "Gemm")]
    pruned = 0
    for index, node in enumerate(nodes):
        weight = weights[node.input[1]]
        density = np.count_nonzero(weight) / weight.size
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        # Yolo's: expectation over bins, last convolution of a head.
        constant, last = "dfl" in node.name, re.search(r"cv[23]/\d/2/Conv", node.name)
        if index == 0 or node.op_type == "Gemm" or group > 1 or last or "squeeze" in node.name:
            assert density == 1, node.name
        elif not constant:
            pruned += 1
            assert density == pytest.approx(1 - percent / 100, abs=1 / weight.size), node.name
    assert pruned >= 4


@pytest.mark.parametrize("family", TINY)
def test_compiled_models_are_right(build, family):
    path = build(f"{family}-80")
    shapes = recipes.recipe(f"{family}-80").shapes
    engine = tvm_sparse.compile(path, shapes)
    ((name, shape),) = shapes.items()
    x = np.random.default_rng(2).standard_normal(shape, np.float32)
    (actual,) = engine.run({name: x}).values()
    expected = session_of(path).run(None, {name: x})[0]
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


def test_batches_are_dynamic(build):
    for family in ("resnet-tiny", "yolo-tiny"):
        (shape,) = recipes.recipe(f"{family}-80").shapes.values()
        path = build(f"{family}-80")
        both = run(path, (2, *shape[1:]))
        single = run(path, shape)
        np.testing.assert_allclose(both[:1], single, rtol=1e-3, atol=1e-3)


def test_detectors_take_smaller_images(build):
    assert run(build("yolov5s-320-85"), (1, 3, 320, 320)).shape == (1, 6300, 85)
    assert run(build("yolov8n-320-85"), (1, 3, 320, 320)).shape == (1, 84, 2100)


def test_boxes_of_yolov5_follow_its_definition(build):
    """Boxes of the first level are those of ``models/yolo.py`` 6.1, from the head's convolution."""
    model = onnx.load(build("yolov5s-320-85"))
    head = next(n for n in model.graph.node if n.op_type == "Conv" and n.output[0].startswith(
        "/model/24/m/0"))  # fmt: skip
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(head.output[0]))
    x = np.random.default_rng(0).standard_normal((1, 3, 320, 320), np.float32)
    boxes, raw = session_of(model.SerializeToString()).run(None, {"images": x})
    anchor, row, column = 1, 7, 30
    y = 1 / (1 + np.exp(-raw.reshape(3, 85, 40, 40)[anchor, :, row, column].astype(float)))
    expected = [
        (2 * y[0] - 0.5 + column) * 8, (2 * y[1] - 0.5 + row) * 8,
        (2 * y[2]) ** 2 * 16, (2 * y[3]) ** 2 * 30,
    ]  # fmt: skip
    actual = boxes[0, (anchor * 40 + row) * 40 + column]
    np.testing.assert_allclose(actual, [*expected, *y[4:]], rtol=1e-4)


def test_boxes_of_yolov8_follow_its_definition(build):
    """A box lies around its cell at the expected distances, scaled by the stride."""
    model = onnx.load(build("yolo-tiny-80"))
    joined = next(n for n in model.graph.node if n.op_type == "Concat"
                  and n.output[0].startswith("/model/22/Concat")
                  and n.attribute[0].i == 2 and len(n.input) == 3)  # fmt: skip
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(joined.output[0]))
    x = np.random.default_rng(0).standard_normal((1, 3, 128, 128), np.float32)
    boxes, raw = session_of(model.SerializeToString()).run(None, {"images": x})
    cell = 256 + 8 + 2  # of the second level, 8 x 8 cells: row 1, column 2
    likely = np.exp(raw[0, :64, cell].reshape(4, 16).astype(float))
    left, top, right, bottom = likely @ np.arange(16) / likely.sum(axis=1)
    centre = [2.5 + (right - left) / 2, 1.5 + (bottom - top) / 2]
    expected = 16 * np.array([*centre, left + right, top + bottom])
    np.testing.assert_allclose(boxes[0, :4, cell], expected, rtol=1e-4)
    np.testing.assert_allclose(boxes[0, 4:, cell], 1 / (1 + np.exp(-raw[0, 64:, cell])), rtol=1e-4)


def test_the_same_seed_gives_the_same_file(build, tmp_path):
    first = build("mobilenet-tiny-80").read_bytes()
    assert recipes.recipe("mobilenet-tiny-80").build(tmp_path / "m").read_bytes() == first


def test_a_convolution_is_centred_and_scaled_on_noise():
    graph = VisionBuilder(0.5)
    y = graph.conv(graph.image("x", 16), "conv", 8, 3, pruned=True, deviation=0.5)
    value = graph._values[y]
    assert value.std(axis=(0, 2, 3)).mean() == pytest.approx(0.5, rel=0.1)
    assert np.abs(value.mean(axis=(0, 2, 3))).max() < 0.3  # the random bias

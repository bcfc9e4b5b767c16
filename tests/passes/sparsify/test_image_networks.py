"""Small networks of images, from ONNX to numbers, against ONNX Runtime."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import tvm
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tvm_sparse
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.frontends.onnx_importer import import_onnx
from tvm_sparse.passes import pipeline
from tvm_sparse.testing.models import onnxruntime_outputs, operators_of, run, write_onnx

node = onnx.helper.make_node
CHANNELS = 6


def check(folder, body, shape, weights=None, cpu=None, opset=17):
    """Compare ``conv(body(conv(x)))`` with ONNX Runtime; returns the operators before lowering.

    Convolutions of one pixel bring the image to panels and back.
    """
    cpu, rng = cpu or native(), np.random.default_rng(0)
    weights = {"one": np.eye(CHANNELS, dtype="float32")[..., None, None], **(weights or {})}
    nodes = [node("Conv", ["x", "one"], ["a"]), *body, node("Conv", ["b", "one"], ["y"])]
    path = write_onnx(folder / "model.onnx", nodes, {"x": shape}, ["y"], weights, opset)
    x = rng.standard_normal(shape).astype("float32")
    want = onnxruntime_outputs(path, {"x": x})["y"]
    mod = import_onnx(path).mod
    executable = tvm.compile(mod, cpu.to_target(), relax_pipeline="tvm_sparse")
    np.testing.assert_allclose(run(executable, x), want, rtol=1e-5, atol=1e-5)
    phases = [*pipeline.canonicalize(), *pipeline.sparsify(cpu)]
    return operators_of(tvm.transform.Sequential(phases)(mod))


PANELS_ONLY = ("tvm_sparse.", "concat", "strided_slice", "multiply", "reshape", "clip")


def assert_on_panels(names):
    assert all(name.startswith(PANELS_ONLY) for name in names), names
    assert [names.count(f"tvm_sparse.{n}") for n in ("image_to_panels", "panels_to_image")] == [
        1,
        1,
    ]


def drops_a_window(shape, attributes):
    """Whether the last of the windows, whose number is rounded up, begins behind the image."""
    for extent, kernel, stride, before, after in zip(
        shape[2:],
        attributes["kernel_shape"],
        attributes["strides"],
        attributes["pads"][:2],
        attributes["pads"][2:],
        strict=True,
    ):
        steps = math.ceil((extent + before + after - kernel) / stride)
        if attributes["ceil_mode"] and steps * stride >= extent + before:
            return True
    return False


@settings(max_examples=12, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["MaxPool", "AveragePool"]))
def test_pooling(tmp_path_factory, data, kind):
    kernel = data.draw(st.tuples(*[st.integers(1, 4)] * 2))
    attributes = {
        "kernel_shape": kernel,
        "strides": data.draw(st.tuples(*[st.integers(1, 3)] * 2)),
        "pads": [data.draw(st.integers(0, kernel[axis % 2] // 2)) for axis in range(4)],
        "ceil_mode": data.draw(st.integers(0, 1)),
    }
    if kind == "AveragePool":
        attributes["count_include_pad"] = data.draw(st.integers(0, 1))
    shape = (
        data.draw(st.integers(1, 2)),
        CHANNELS,
        *data.draw(st.tuples(*[st.integers(8, 40)] * 2)),
    )
    assume(not drops_a_window(shape, attributes))  # TVM has one more, and ONNX Runtime runs it
    cpu = data.draw(st.sampled_from([native(), profile("haswell")]))
    names = check(
        tmp_path_factory.mktemp("pool"), [node(kind, ["a"], ["b"], **attributes)], shape, cpu=cpu
    )
    # Padding that counts, in front of rounded-up windows that do not count, is an operator of TVM.
    if not (attributes.get("count_include_pad") and attributes["ceil_mode"]):
        assert_on_panels(names)


def _nearest(extent, scale, mode, rounding):
    """Return which pixels of a row ONNX takes."""
    shift = 0 if mode == "asymmetric" else 0.5
    places = [(i + shift) / scale - shift for i in range(extent * scale)]
    rounded = {
        "floor": math.floor,
        "ceil": math.ceil,
        "round_prefer_floor": lambda place: math.ceil(place - 0.5),
        "round_prefer_ceil": lambda place: math.floor(place + 0.5),
    }[rounding]
    return [min(max(rounded(place), 0), extent - 1) for place in places]


@pytest.mark.parametrize("mode", ["asymmetric", "half_pixel", "pytorch_half_pixel"])
@pytest.mark.parametrize("rounding", ["floor", "round_prefer_floor", "round_prefer_ceil", "ceil"])
@pytest.mark.parametrize("scales", [(2, 2), (4, 3)])
def test_nearest(tmp_path, mode, rounding, scales):
    options = {"coordinate_transformation_mode": mode, "nearest_mode": rounding, "mode": "nearest"}
    body = [node("Resize", ["a", "", "scales"], ["b"], **options)]
    names = check(
        tmp_path, body, (1, CHANNELS, 5, 9), {"scales": np.float32([1, 1, *scales])}, opset=18
    )
    repeats = all(
        _nearest(extent, scale, mode, rounding) == [i // scale for i in range(extent * scale)]
        for extent, scale in zip((5, 9), scales, strict=True)
    )
    assert ("tvm_sparse.upsample2d" in names) == repeats


@pytest.mark.parametrize(
    "mode", ["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"]
)
def test_bilinear(tmp_path, mode):
    options = {"coordinate_transformation_mode": mode, "mode": "linear"}
    body = [node("Resize", ["a", "", "", "sizes"], ["b"], **options)]
    sizes = {"sizes": np.array([1, CHANNELS, 13, 31])}
    names = check(tmp_path, body, (1, CHANNELS, 5, 9), sizes, opset=18)
    assert_on_panels(names)


@pytest.mark.parametrize("batch", [1, 2])
def test_squeeze_and_excite(tmp_path, batch):
    body = [
        node("GlobalAveragePool", ["a"], ["mean"]),
        node("Conv", ["mean", "squeeze"], ["s"]),
        node("Relu", ["s"], ["r"]),
        node("Conv", ["r", "excite"], ["e"]),
        node("HardSigmoid", ["e"], ["gate"]),
        node("Mul", ["a", "gate"], ["b"]),
    ]
    squeeze = np.random.default_rng(1).standard_normal((3, CHANNELS, 1, 1)).astype("float32")
    weights = {"squeeze": squeeze, "excite": squeeze.transpose(1, 0, 2, 3).copy()}
    names = check(tmp_path, body, (batch, CHANNELS, 7, 7), weights)
    assert names.count("tvm_sparse.image_to_panels") == 1


def test_split_and_concat(tmp_path):
    body = [
        node("Split", ["a", "sizes"], ["p", "q", "r"], axis=1),
        node("Clip", ["q", "low", "high"], ["t"]),
        node("Concat", ["t", "r", "p"], ["b"], axis=1),
    ]
    weights = {"sizes": np.array([1, 2, 3]), "low": np.float32(0), "high": np.float32(6)}
    assert_on_panels(check(tmp_path, body, (2, CHANNELS, 5, 20), weights))


@pytest.mark.parametrize(
    "activation",
    [
        node("Clip", ["a", "low", "high"], ["b"]),
        node("HardSwish", ["a"], ["b"]),
        node("LeakyRelu", ["a"], ["b"], alpha=0.1),
    ],
    ids=lambda activation: activation.op_type,
)
def test_activations_become_epilogues(tmp_path, activation):
    weights = {"low": np.float32(0), "high": np.float32(6)}
    names = check(tmp_path, [activation], (1, CHANNELS, 5, 9), weights)
    layers = ["tvm_sparse.linear"] * 2
    assert names == ["tvm_sparse.image_to_panels", *layers, "tvm_sparse.panels_to_image"]


@pytest.mark.parametrize("chosen", [True, False])
@pytest.mark.parametrize("first", ["a convolution first", "the input"])
def test_branches_do_not_share_panels_or_memory(tmp_path, chosen, first):
    """Both branches lay the same image out; what one of them has, the other one cannot see."""

    def branch(name, operator):
        info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, CHANNELS, 8, 8))
        pool = node(operator, ["a"], [name], kernel_shape=[2, 2], strides=[2, 2])
        return onnx.helper.make_graph([pool], name, [], [info])

    branches = {"then_branch": branch("t", "MaxPool"), "else_branch": branch("e", "AveragePool")}
    make = "Conv" if first == "a convolution first" else "Add"
    one = np.eye(CHANNELS, dtype="float32")[..., None, None] if make == "Conv" else np.float32(0)
    nodes = [
        node(make, ["x", "one"], ["a"]),
        node("Cast", ["c"], ["b"], to=onnx.TensorProto.BOOL),
        node("If", ["b"], ["p"], **branches),
        node("Relu", ["p"], ["y"]),
    ]
    shapes = {"x": (1, CHANNELS, 16, 16), "c": ()}
    path = write_onnx(tmp_path / "model.onnx", nodes, shapes, ["y"], {"one": np.asarray(one)})
    x = np.random.default_rng(0).standard_normal(shapes["x"]).astype("float32")
    inputs = {"x": x, "c": np.array(chosen, "float32")}
    want = onnxruntime_outputs(path, inputs)["y"]
    engine = tvm_sparse.compile(path, threads=1)
    np.testing.assert_allclose(engine.run(inputs)["y"], want, rtol=1e-5, atol=1e-5)

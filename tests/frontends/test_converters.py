"""Attributes, inputs and outputs of ONNX operators: honoured as ONNX Runtime does, or refused."""

import numpy as np
import onnx
import pytest
import tvm
from onnx.helper import make_node
from tvm import relax

import tvm_sparse
from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.converters.resize import interpolation
from tvm_sparse.frontends.onnx_importer import import_onnx
from tvm_sparse.report.analysis import analyze
from tvm_sparse.testing.models import onnxruntime_outputs, write_onnx


def write(path, node, shapes, weights, opset=17):
    """Write a model of one node, whose outputs have no types."""
    path = write_onnx(path, [node], shapes, list(node.output), weights, opset=opset)
    model = onnx.load(path)
    for value in model.graph.output:
        value.ClearField("type")
    onnx.save(model, path)
    return path


def check(tmp_path, node, inputs, weights=None, opset=17, atol=1e-5):
    """Compare all outputs of a node with ONNX Runtime; nothing of ours but the import runs."""
    shapes = {name: list(array.shape) for name, array in inputs.items()}
    path = write(tmp_path / "m.onnx", node, shapes, weights or {}, opset)
    expected = onnxruntime_outputs(path, inputs)
    target = tvm.target.Target({"kind": "llvm"})
    pipeline = relax.get_default_pipeline(target)
    executable = tvm.compile(
        import_onnx(path, no_fallback="not in this test").mod, target, relax_pipeline=pipeline
    )
    machine = relax.VirtualMachine(executable, tvm.cpu())
    results = machine["main"](*[tvm.runtime.tensor(x) for x in inputs.values()])
    results = [results] if isinstance(results, tvm.runtime.Tensor) else list(results)
    for name, result in zip(node.output, results, strict=True):
        assert result.numpy().dtype == expected[name].dtype
        np.testing.assert_allclose(result.numpy(), expected[name], rtol=1e-4, atol=atol)


def image(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("axes", [[0], [0, 3], [-1]])
def test_axes_of_unsqueeze_as_an_attribute(tmp_path, axes):
    check(tmp_path, make_node("Unsqueeze", ["x"], ["y"], axes=axes), {"x": image(2, 5)}, opset=12)


@pytest.mark.parametrize("operator", ["ReduceMin", "ReduceMax"])
def test_extremes_of_truth_values(tmp_path, operator):
    node = make_node(operator, ["x", "axes"], ["y"], keepdims=0)
    x = np.array([[True, True], [True, False], [False, False]])
    path = write(tmp_path / "m.onnx", node, {"x": [3, 2]}, {"axes": np.array([1])}, opset=20)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.BOOL
    onnx.save(model, path)
    y = tvm_sparse.compile(path, fallback="off", threads=1).run({"x": x})["y"]
    np.testing.assert_array_equal(y, onnxruntime_outputs(path, {"x": x})["y"])
    assert y.dtype == np.bool_


AUTO_PADS = ["SAME_UPPER", "SAME_LOWER", "VALID"]


@pytest.mark.parametrize("auto_pad", AUTO_PADS)
@pytest.mark.parametrize("strides", [[1, 1], [2, 3]])
@pytest.mark.parametrize("kernel", [[3, 3], [2, 4]])
def test_auto_pad_of_a_convolution(tmp_path, auto_pad, strides, kernel):
    node = make_node("Conv", ["x", "w"], ["y"], auto_pad=auto_pad, strides=strides)
    check(tmp_path, node, {"x": image(1, 3, 13, 10)}, {"w": image(4, 3, *kernel)}, atol=1e-4)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [2, 0, 1, 0], "strides": [2, 1]},
        {"dilations": [3, 1], "kernel_shape": [3, 1], "strides": [1, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"pads": [1, 1, 1, 1]},
        {"group": 4},
    ],
)
@pytest.mark.parametrize("is_constant", [True, False])
def test_a_convolution_of_one_column(tmp_path, attributes, is_constant):
    node = make_node("Conv", ["x", "w", "b"], ["y"], **attributes)
    weight = image(8, 4 // attributes.get("group", 1), 3, 1)
    inputs, weights = {"x": image(2, 4, 19, 1)}, {"w": weight, "b": image(8)}
    if not is_constant:
        inputs, weights = {**inputs, **weights}, {}
    check(tmp_path, node, inputs, weights, atol=1e-4)


@pytest.mark.parametrize("auto_pad", AUTO_PADS[:2])
def test_auto_pad_of_a_dilated_convolution(tmp_path, auto_pad):
    """ONNX Runtime does not run it, so it is compared with the padding written out."""
    shapes, weights = {"x": [1, 3, 13, 10]}, {"w": image(4, 3, 3, 3)}
    options = [{"auto_pad": auto_pad}, {"pads": [2, 3, 2, 3]}]
    modules = [
        import_onnx(write(tmp_path / "m.onnx", node, shapes, weights)).mod
        for node in (make_node("Conv", ["x", "w"], ["y"], dilations=[2, 3], **o) for o in options)
    ]
    tvm.ir.assert_structural_equal(*modules)


@pytest.mark.parametrize("auto_pad", AUTO_PADS)
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("size", [12, 13])
def test_auto_pad_of_a_pooling(tmp_path, operator, auto_pad, size):
    node = make_node(operator, ["x"], ["y"], auto_pad=auto_pad, kernel_shape=[3, 2], strides=[2, 2])
    check(tmp_path, node, {"x": image(1, 3, size, 9)})


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize("pads", [[0, 0], [1, 1], [0, 1]])
@pytest.mark.parametrize("counted", [0, 1])
def test_windows_over_the_border_of_a_pooling(tmp_path, operator, size, pads, counted):
    extra = {"count_include_pad": counted} if operator == "AveragePool" else {}
    node = make_node(
        operator, ["x"], ["y"], kernel_shape=[3], strides=[2], pads=pads, ceil_mode=1, **extra
    )
    check(tmp_path, node, {"x": image(1, 2, size)}, opset=19)


@pytest.mark.parametrize("operator, opset", [("MaxPool", 12), ("AveragePool", 19), ("LpPool", 18)])
@pytest.mark.parametrize(
    "size, window",
    [
        ([8, 32], {"kernel_shape": [1, 1], "strides": [1, 3]}),
        ([4, 5], {"kernel_shape": [1, 3], "strides": [3, 3], "pads": [0, 1, 0, 1]}),
        ([5, 7], {"kernel_shape": [2, 1], "strides": [2, 4], "pads": [1, 0, 1, 0]}),
    ],
    ids=str,
)
def test_windows_behind_the_image_are_none(tmp_path, operator, opset, size, window):
    """ONNX's inference counts them before opset 22, and nobody computes them."""
    node = make_node(operator, ["x"], ["y"], ceil_mode=1, **window)
    check(tmp_path, node, {"x": image(1, 2, *size)}, opset=opset)


@pytest.mark.parametrize(
    "options",
    [
        {"output_shape": [14, 14]},
        {"output_shape": [15, 13]},
        {"output_shape": [16, 12], "output_padding": [1, 1]},
        {"output_shape": [14, 14], "auto_pad": "SAME_UPPER"},
        {"output_shape": [14, 14], "auto_pad": "SAME_LOWER"},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "VALID"},
        {"output_padding": [1, 0], "pads": [1, 0, 0, 1]},
        {"dilations": [2, 1]},
    ],
    ids=str,
)
def test_sizes_of_a_transposed_convolution(tmp_path, options):
    node = make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], **options)
    check(tmp_path, node, {"x": image(1, 3, 7, 7)}, {"w": image(3, 4, 3, 3)}, atol=1e-4)


PLACES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("scale", [1.5, 2.0, 0.7])
def test_resize_by_scales(tmp_path, places, mode, scale):
    node = make_node(
        "Resize", ["x", "", "s"], ["y"], mode=mode, coordinate_transformation_mode=places
    )
    scales = {"s": np.float32([1, 1, scale, scale])}
    check(tmp_path, node, {"x": image(1, 2, 5, 7)}, scales, opset=19, atol=1e-4)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("scale", [0.5, 1.7, 3.0])
def test_nearest_pixels_of_a_resize(tmp_path, rounding, scale):
    node = make_node("Resize", ["x", "", "s"], ["y"], mode="nearest", nearest_mode=rounding)
    scales = {"s": np.float32([1, 1, scale, scale])}
    check(tmp_path, node, {"x": image(1, 2, 6, 7)}, scales)


@pytest.mark.parametrize("places", ["asymmetric", "half_pixel"])
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "floor", "ceil"])
@pytest.mark.parametrize("size", [4, 10, 21, 28])
def test_nearest_pixels_of_a_resize_to_a_size(tmp_path, places, rounding, size):
    """In float32, 2 / (4 / 14) is below 7, and which pixel is the nearest depends on it."""
    options = {"coordinate_transformation_mode": places, "nearest_mode": rounding}
    node = make_node("Resize", ["x", "", "", "s"], ["y"], mode="nearest", **options)
    check(tmp_path, node, {"x": image(1, 1, 14, 5)}, {"s": np.array([1, 1, size, 10])})


@pytest.mark.parametrize(
    "options, sizes",
    [
        ({"axes": [2, 3]}, [12, 9]),
        ({"axes": [3, 2]}, [9, 12]),
        ({"axes": [-1]}, [11]),
        ({"axes": [2, 3], "antialias": 1}, [3, 4]),
        ({"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}, [11, 20]),
        ({"axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller"}, [11, 20]),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_of_some_axes(tmp_path, options, sizes, mode):
    node = make_node("Resize", ["x", "", "", "s"], ["y"], mode=mode, **options)
    check(tmp_path, node, {"x": image(1, 2, 6, 8)}, {"s": np.array(sizes)}, opset=18, atol=1e-4)


PLACES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("sizes", [[1, 3], [3, 1], [1, 1]], ids=str)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_to_one_pixel(tmp_path, mode, sizes, places):
    """The distance of the corners is zero then."""
    options = {"mode": mode, "coordinate_transformation_mode": places}
    node = make_node("Resize", ["x", "", "", "s"], ["y"], **options)
    check(tmp_path, node, {"x": image(1, 2, 1, 5)}, {"s": np.array([1, 2, *sizes])})


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_attributes_of_other_modes_are_no_matter(tmp_path, mode):
    """PyTorch writes all of them, whatever the mode."""
    node = make_node(
        "Resize",
        ["x", "", "s"],
        ["y"],
        mode=mode,
        coordinate_transformation_mode="asymmetric",
        cubic_coeff_a=-0.75,
        nearest_mode="floor",
        extrapolation_value=1.0,
    )
    check(tmp_path, node, {"x": image(1, 2, 5, 7)}, {"s": np.float32([1, 1, 1.5, 2])}, atol=1e-4)


@pytest.mark.parametrize("alpha", [np.inf, -np.inf, np.nan])
def test_infinite_factors_are_left_to_onnx_runtime(tmp_path, alpha):
    node = make_node("Gemm", ["x", "w"], ["y"], alpha=alpha)
    with pytest.raises(ModelError, match=rf"its attribute 'alpha' is {alpha}"):
        check(tmp_path, node, {"x": image(4, 6)}, {"w": image(6, 3)})


def test_weights_of_an_interpolation_sum_to_one():
    centres = np.linspace(-1, 7, 23)
    for mode in ("linear", "cubic"):
        for stretch in (1.0, 2.5):
            weights = interpolation(mode, centres, 6, stretch, -0.75, exclude=False)
            np.testing.assert_allclose(weights.sum(1), 1)


@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_statistics_of_a_layer_normalization(tmp_path, axis, outputs):
    x = image(3, 4, 5)
    node = make_node(
        "LayerNormalization", ["x", "g", "b"], ["y", "m", "i"][:outputs], axis=axis, epsilon=1e-3
    )
    check(tmp_path, node, {"x": x}, {"g": image(*x.shape[axis:]), "b": image(*x.shape[axis:])})


def test_batch_normalization_in_training(tmp_path):
    names = ["g", "b", "m", "v"]
    node = make_node(
        "BatchNormalization", ["x", *names], ["y", "rm", "rv"], training_mode=1, momentum=0.7
    )
    weights = {name: np.abs(image(4)) + 0.1 for name in names}
    check(tmp_path, node, {"x": image(3, 4, 5, 2)}, weights)


def test_normalization_over_the_axes_that_are_given(tmp_path):
    node = make_node("MeanVarianceNormalization", ["x"], ["y"], axes=[0, 2])
    check(tmp_path, node, {"x": image(2, 3, 4, 5)})


def test_the_mask_of_a_dropout_is_boolean(tmp_path):
    node = make_node("Dropout", ["x", "r", "t"], ["y", "m"])
    check(tmp_path, node, {"x": image(2, 8)}, {"r": np.float32(0.3), "t": np.array(False)})


def test_a_dropout_in_training_is_refused(tmp_path):
    node = make_node("Dropout", ["x", "r", "t"], ["y"], name="drop")
    weights = {"r": np.float32(0.3), "t": np.array(True)}
    path = write(tmp_path / "m.onnx", node, {"x": [2, 8]}, weights)
    with pytest.raises(ModelError, match=r"'drop' \(Dropout\).*'training_mode'"):
        import_onnx(path, no_fallback="not in this test")


@pytest.mark.parametrize("size", [6, 7, 8])
@pytest.mark.parametrize("axis", [0, -1])
def test_equal_parts_of_a_split(tmp_path, size, axis):
    node = make_node("Split", ["x"], ["a", "b", "c"], axis=axis, num_outputs=3)
    shape = [2, 3]
    shape[axis] = size
    check(tmp_path, node, {"x": image(*shape)}, opset=18)


def test_resize_of_float64(tmp_path):
    """TVM narrows constants of 64 bits unless it is told their type; ONNX Runtime has float32."""
    resize = make_node("Resize", ["x", "", "s"], ["y"], mode="cubic")
    nodes = [
        make_node("Cast", ["x"], ["d"], to=onnx.TensorProto.DOUBLE),
        make_node("Resize", ["d", "", "s"], ["r"], mode="cubic"),
        make_node("Mul", ["r", "zero"], ["z"]),
        make_node("Add", ["r", "z"], ["a"]),
        make_node("Cast", ["a"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    weights = {"s": np.float32([1, 1, 1.7, 2]), "zero": np.float64(0)}
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, 2, 5, 6]}, ["y"], weights)
    x = {"x": image(1, 2, 5, 6)}
    actual = tvm_sparse.compile(path, fallback="off", threads=1).run(x)["y"]
    write_onnx(path, [resize], {"x": [1, 2, 5, 6]}, ["y"], weights)
    np.testing.assert_allclose(actual, onnxruntime_outputs(path, x)["y"], rtol=1e-4, atol=1e-5)


def test_the_sign_of_nan(tmp_path):
    x = np.float32([np.nan, -np.inf, -2, -0.0, 0, 3, np.inf])
    check(tmp_path, make_node("Sign", ["x"], ["y"]), {"x": x})


def test_a_limit_of_nan(tmp_path):
    x = np.float32([np.nan, -np.inf, 1, 2, np.inf])
    check(tmp_path, make_node("ThresholdedRelu", ["x"], ["y"]), {"x": x})


@pytest.mark.parametrize("sizes", [[0, 4], [4, 0], [1, 0, 3], [0, 0, 4]])
def test_empty_parts_of_a_split(tmp_path, sizes):
    names = [f"y{i}" for i in range(len(sizes))]
    weights = {"sizes": np.array(sizes)}
    check(tmp_path, make_node("Split", ["x", "sizes"], names), {"x": image(4, 3)}, weights)


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("negative", [0, 1])
def test_infinities_of_one_sign(tmp_path, positive, negative):
    node = make_node("IsInf", ["x"], ["y"], detect_positive=positive, detect_negative=negative)
    x = np.array([1, np.inf, -np.inf, np.nan, 0], "float32")
    check(tmp_path, node, {"x": x})


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("axes", [None, [0], [-1], [0, 2]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_extremes_of_infinities(tmp_path, operator, axes, keepdims):
    x = image(2, 3, 4)
    x[:, 1] = -np.inf if operator == "ReduceMax" else np.inf
    x[1] = -np.inf if operator == "ReduceMax" else np.inf
    options = {} if axes is None else {"axes": axes}
    check(tmp_path, make_node(operator, ["x"], ["y"], keepdims=keepdims, **options), {"x": x})


@pytest.mark.parametrize("axes", [None, [0], [-1], [0, 2]])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan, 100.0])
def test_log_sum_exp_of_special_values(tmp_path, value, keepdims, axes):
    x = image(2, 3, 4)
    x[:, 1], x[1, 2] = value, value
    options = {} if axes is None else {"axes": axes}
    node = make_node("ReduceLogSumExp", ["x"], ["y"], keepdims=keepdims, **options)
    check(tmp_path, node, {"x": x})


@pytest.mark.parametrize(
    "start, end, step", [(0, 5, -1), (4, 2, 1), (-1, -5, 2), (3, 3, 1), (9, 0, -2), (2, 99, 3)]
)
def test_slices_of_any_length(tmp_path, start, end, step):
    node = make_node("Slice", ["x", "s", "e", "a", "t"], ["y"])
    values = {"s": start, "e": end, "a": 0, "t": step}
    weights = {name: np.array([value]) for name, value in values.items()}
    check(tmp_path, node, {"x": image(10, 2)}, weights)


@pytest.mark.parametrize(
    "node, attribute",
    [
        (
            make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2], name="n"),
            "output 'Indices'",
        ),
        (make_node("RoiAlign", ["x", "r", "b"], ["y"], mode="max", name="n"), "attribute 'mode'"),
        (make_node("Pad", ["x", "p"], ["y"], name="n"), "input 'pads'"),
    ],
)
def test_what_is_not_done_is_named(tmp_path, node, attribute):
    weights = {
        "r": np.float32([[0, 0, 3, 3]]),
        "b": np.array([0]),
        "p": np.array([0, 0, -1, 0, 0, 0, 0, 0]),
    }
    weights = {name: array for name, array in weights.items() if name in node.input}
    path = write(tmp_path / "m.onnx", node, {"x": [1, 2, 6, 6]}, weights)
    with pytest.raises(ModelError, match=rf"'n' \({node.op_type}\).*{attribute}"):
        import_onnx(path, no_fallback="not in this test")


def test_suppression_of_boxes_is_not_left_to_tvm(tmp_path):
    node = make_node("NonMaxSuppression", ["x", "s", "m"], ["y"])
    shapes = {"x": [1, 6, 4], "s": [1, 2, 6]}
    path = write(tmp_path / "m.onnx", node, shapes, {"m": np.array([3])})
    with pytest.raises(ModelError, match="keeps other boxes"):
        import_onnx(path, no_fallback="not in this test")


@pytest.mark.parametrize("operator", ["Max", "Min", "Sum"])
@pytest.mark.parametrize("shapes", [[(2, 3)], [(2, 3), (3,)], [(2, 1), (1, 3), (4, 1, 1)]])
def test_operators_of_any_number_of_tensors(tmp_path, operator, shapes):
    inputs = {f"x{i}": image(*shape) * (i + 1) for i, shape in enumerate(shapes)}
    inputs["x0"].flat[0] = np.inf
    check(tmp_path, make_node(operator, [*inputs, "c"], ["y"]), inputs, {"c": image(3) - 1})
    weights = {"c": image(3), "d": image(2, 3)}
    check(tmp_path, make_node(operator, [*inputs], ["y"]), inputs)
    graph = make_node(operator, ["c", "d"], ["y"])
    check(tmp_path, graph, {}, weights)


def test_a_maximum_with_a_constant_ends_no_region(tmp_path):
    nodes = [
        make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        make_node("Max", ["c", "low"], ["m"]),
        make_node("Conv", ["m", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    weights = {"w": image(8, 8, 3, 3), "low": np.full((1, 1, 1, 1), -0.4, "float32")}
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, 8, 16, 16]}, ["y"], weights)
    operators = [report.operator for report in analyze(path).operators]
    between = operators[operators.index("conv2d") + 1 :]
    assert between[: between.index("conv2d")] == ["elementwise"]


@pytest.mark.parametrize("is_constant", [True, False])
def test_power_of_another_type(tmp_path, is_constant):
    nodes = [
        make_node("Cast", ["z"], ["floor"], to=onnx.TensorProto.INT64),
        make_node("Pow", ["x", "e" if is_constant else "floor"], ["y"]),
    ]
    shapes, weights = {"x": [3, 2], "z": [2]}, {"e": np.array([3, 2], "int64")}
    path = write_onnx(tmp_path / "m.onnx", nodes, shapes, ["y"], weights)
    feeds = {"x": image(3, 2), "z": np.array([3, 2], "float32")}
    engine = tvm_sparse.compile(path, threads=1, fallback="off")
    expected = onnxruntime_outputs(path, feeds)["y"]
    np.testing.assert_allclose(engine.run(feeds)["y"], expected, rtol=1e-5)


def test_largest_values_in_any_order(tmp_path):
    node = make_node("TopK", ["x", "k"], ["y", "i"], sorted=0, axis=1)
    shapes, weights = {"x": [2, 9]}, {"k": np.array([9], "int64")}
    path = write_onnx(tmp_path / "m.onnx", [node], shapes, ["y"], weights)
    x = image(2, 9)
    found = tvm_sparse.compile(path, threads=1).run({"x": x})["y"]
    np.testing.assert_array_equal(np.sort(found, 1), np.sort(x, 1))

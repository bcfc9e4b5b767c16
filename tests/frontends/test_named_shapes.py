"""ONNX files whose dimensions keep their names, against ONNX Runtime."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.errors import InputError, ModelError
from tvm_sparse.frontends.formulas import formula
from tvm_sparse.frontends.input_shapes import bind_shapes
from tvm_sparse.frontends.named_shapes import named_shapes
from tvm_sparse.frontends.probes import MOST, probes
from tvm_sparse.testing.models import onnxruntime_outputs, pruned, write_mlp, write_onnx

CHANNELS, HEADS, POSITIONS, WORDS = 32, 2, 40, 50


def write_encoder(path, pooled=False):
    """Write a transformer's layer as exporters do: with shapes that the graph computes."""
    rng, nodes, weights = np.random.default_rng(0), [], {}

    def n(operator, inputs, **attributes):
        nodes.append(make_node(operator, inputs, [f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def c(array):
        name = f"c{len(weights)}"
        weights[name] = np.asarray(array)
        return name

    def linear(x):
        weight = pruned(rng, (CHANNELS, CHANNELS), 0.2) / np.float32(np.sqrt(0.2 * CHANNELS))
        return n("Add", [n("MatMul", [x, c(weight)]), c(np.full(CHANNELS, 0.1, "float32"))])

    def table(rows):
        return c(rng.standard_normal((rows, CHANNELS)).astype("float32"))

    sizes = n("Shape", ["input_ids"])
    batch, sequence = (
        n("Unsqueeze", [n("Gather", [sizes, c(np.int64(i))]), c(np.int64([0]))]) for i in (0, 1)
    )
    counted = c(np.arange(POSITIONS, dtype="int64")[None])
    places = n("Slice", [counted, c(np.int64([0])), sequence, c(np.int64([1]))])
    kinds = n("ConstantOfShape", [sizes], value=onnx.numpy_helper.from_array(np.int64([0])))
    x = n("Add", [n("Gather", [table(WORDS), "input_ids"]), n("Gather", [table(2), kinds])])
    x = n("Add", [x, n("Gather", [table(POSITIONS), places])])
    mask = n("Cast", [n("Unsqueeze", ["attention_mask", c(np.int64([1, 2]))])], to=1)
    away = n("Mul", [n("Sub", [c(np.float32(1)), mask]), c(np.float32(-3.4e38))])

    def heads(x, order):
        shape = n("Concat", [batch, sequence, c(np.int64([HEADS, CHANNELS // HEADS]))], axis=0)
        return n("Transpose", [n("Reshape", [x, shape])], perm=order)

    q, k, v = (linear(x) for _ in range(3))
    scores = n("MatMul", [heads(q, [0, 2, 1, 3]), heads(k, [0, 2, 3, 1])])
    shares = n("Softmax", [n("Add", [n("Div", [scores, c(np.float32(4))]), away])], axis=-1)
    mixed = n("MatMul", [shares, heads(v, [0, 2, 1, 3])])
    whole = n("Concat", [batch, sequence, c(np.int64([CHANNELS]))], axis=0)
    mixed = n("Reshape", [n("Transpose", [mixed], perm=[0, 2, 1, 3]), whole])
    y, outputs = n("Add", [x, linear(mixed)]), ["y"]
    if pooled:
        kept = n("Cast", [n("Unsqueeze", ["attention_mask", c(np.int64([-1]))])], to=1)
        total = n("ReduceSum", [n("Mul", [y, kept]), c(np.int64([1]))], keepdims=0)
        count = n("ReduceSum", [kept, c(np.int64([1]))], keepdims=0)
        mean = n("Div", [total, n("Clip", [count, c(np.float32(1e-9))])])
        nodes.append(make_node("Identity", [mean], ["mean"]))
        outputs.append("mean")
    nodes.append(make_node("Identity", [y], ["y"]))
    shapes = {name: ["batch", "sequence"] for name in ("input_ids", "attention_mask")}
    write_onnx(path, nodes, shapes, outputs, weights, opset=13)
    model = onnx.load(path)
    for value in model.graph.input:
        value.type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, path)
    return path


def feed(rng, batch, sequence):
    mask = np.arange(sequence) < rng.integers(1, sequence + 1, (batch, 1))
    ids = rng.integers(0, WORDS, (batch, sequence))
    return {"input_ids": ids, "attention_mask": mask.astype("int64")}


@pytest.mark.parametrize("pooled", [False, True])
def test_a_dynamic_model_just_compiles(tmp_path, pooled):
    path = write_encoder(tmp_path / "model.onnx", pooled)
    engine = tvm_sparse.compile(path, verify=True)
    assert [spec.shape for spec in engine.inputs] == [("batch", "sequence")] * 2
    assert engine.info.bounds == {"sequence": POSITIONS}  # the table of positions is so long
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 16), (2, POSITIONS), (5, 33)):
        given = feed(rng, *shape)
        outputs = engine.run(given)
        for name, want in onnxruntime_outputs(path, given).items():
            np.testing.assert_allclose(outputs[name], want, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=f"'sequence' is {POSITIONS + 1}"):
        engine.run(feed(rng, 1, POSITIONS + 1))
    with pytest.raises(InputError, match=f"a table of {POSITIONS} entries"):
        tvm_sparse.compile(path, bounds={"sequence": POSITIONS + 1})


def test_names_of_the_user(tmp_path):
    path = write_mlp(tmp_path / "mlp.onnx")
    engine = tvm_sparse.compile(path, {"x": ("n", 20, 32)}, hints={"n": 4})
    assert engine.inputs[0].shape == ("n", 20, 32)
    for n in (1, 7):
        given = {"x": np.random.default_rng(0).standard_normal((n, 20, 32)).astype("float32")}
        want = onnxruntime_outputs(path, given)["y"]
        np.testing.assert_allclose(engine.run(given)["y"], want, rtol=1e-4, atol=1e-4)


def model_of(shapes, operator="Add", *others):
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    nodes = [make_node(operator, list(shapes), ["y"]), *others]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", inputs, []))


def test_a_name_is_one_size_in_all_inputs():
    model = model_of({"a": ["n", 3], "b": ["n", 3]})
    assert named_shapes(model, None) == {"a": ("n", 3), "b": ("n", 3)}
    assert named_shapes(model, {"a": ("rows", 3)}) == {"a": ("rows", 3), "b": ("rows", 3)}
    assert named_shapes(model, {"a": (2, 3)}) is None
    assert named_shapes(model_of({"a": [2, 3]}), None) is None


def test_networks_of_images_keep_their_names_by_themselves_unless_pixels_are_blended():
    model = model_of({"a": ["n", 3, 8, "width"]}, "Conv")
    assert named_shapes(model, None) == {"a": ("n", 3, 8, "width")}
    model = model_of({"a": ["n", 3, 8, "width"]}, "Conv", make_node("Resize", ["y"], ["z"]))
    assert named_shapes(model, None) == {"a": ("n", 3, 8, "width")}
    blends = make_node("Resize", ["y"], ["z"], mode="linear")
    assert named_shapes(model_of({"a": ["n", 3, 8, "width"]}, "Conv", blends), None) is None
    assert named_shapes(model_of({"a": ["n", "channels", 8, 8]}, "Conv"), None) is None
    model = model_of({"a": ["n", 3, "height", 8]}, "Conv")
    assert named_shapes(model, None) == {"a": ("n", 3, "height", 8)}
    model = model_of({"a": ["n", 3, 8, 8]}, "Conv")
    assert named_shapes(model, None) == {"a": ("n", 3, 8, 8)}
    assert named_shapes(model, {"a": (1, 3, 8, 8)}) is None
    assert named_shapes(model, {"a": ("n", 3, 8, 8)}) == {"a": ("n", 3, 8, 8)}


def test_recurrent_layers_keep_no_names_by_themselves():
    model = model_of({"a": ["n", 3, 8]}, "LSTM")
    assert named_shapes(model, None) is None
    assert named_shapes(model, {"a": ("n", 3, 8)}) == {"a": ("n", 3, 8)}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (("n", "m"), "dimension 1 is 3 in the model"),
        (("n",), "has 1 dimensions, and the model's has 2"),
        (("a b", 3), "'a b' is no name"),
    ],
)
def test_names_that_do_not_fit(shape, message):
    with pytest.raises(InputError, match=message):
        named_shapes(model_of({"a": ["n", 3]}), {"a": shape})


def test_places_of_all_elements_are_counted(tmp_path):
    """A mask is gathered at ``sequence * i + j``, as PyTorch's exporter writes it."""
    nodes = [
        make_node("Shape", ["x"], ["rows"], start=0, end=1),
        make_node("Shape", ["x"], ["length"], start=1, end=2),
        make_node("Squeeze", ["rows"], ["b"]),
        make_node("Squeeze", ["length"], ["s"]),
        make_node("Range", ["zero", "b", "one"], ["i"]),
        make_node("Range", ["zero", "s", "one"], ["j"]),
        make_node("Unsqueeze", ["i", "last"], ["column"]),
        make_node("Mul", ["column", "s"], ["begins"]),
        make_node("Add", ["begins", "j"], ["places"]),
        make_node("Reshape", ["x", "minus"], ["all"]),
        make_node("Gather", ["all", "places"], ["y"]),
    ]
    weights = {"zero": np.int64(0), "one": np.int64(1), "last": np.int64([1])}
    weights["minus"] = np.int64([-1])
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": ["batch", "sequence"]}, ["y"], weights)
    engine = tvm_sparse.compile(path)
    for shape in ((1, 1), (3, 5), (2, 40)):
        x = np.random.default_rng(0).standard_normal(shape).astype("float32")
        np.testing.assert_array_equal(engine.run([x])["y"], x)


def test_sizes_in_arithmetic(tmp_path):
    """A size as a float, in a mean that an exporter wrote out, and sizes that are returned."""
    nodes = [
        make_node("Shape", ["x"], ["sizes"]),
        make_node("Cast", ["sizes"], ["floats"], to=onnx.TensorProto.FLOAT),
        make_node("Gather", ["floats", "first"], ["count"]),
        make_node("ReduceSum", ["x", "axis"], ["sum"]),
        make_node("Div", ["sum", "count"], ["mean"]),
    ]
    weights = {"first": np.array(0), "axis": np.array([0])}
    outputs = ["mean", "floats"]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": ["rows", 5]}, outputs, weights)
    engine = tvm_sparse.compile(path, threads=1)
    for rows in (1, 6, 31):
        x = np.random.default_rng(rows).standard_normal((rows, 5)).astype("float32")
        found = engine.run({"x": x})
        np.testing.assert_allclose(found["mean"], x.mean(0, keepdims=True), atol=1e-6)
        np.testing.assert_array_equal(found["floats"], [rows, 5])


def test_what_no_formula_expresses_is_an_error(tmp_path):
    rng = np.random.default_rng(0)
    half = [
        make_node("Shape", ["x"], ["s"], start=0, end=1),
        make_node("Div", ["s", "two"], ["h"]),
        make_node("Slice", ["x", "zero", "h", "zero"], ["part"]),
        make_node("MatMul", ["part", "w"], ["y"]),
    ]
    weights = {"w": pruned(rng, (8, 8), 0.5), "two": np.int64([2]), "zero": np.int64([0])}
    path = write_onnx(tmp_path / "m.onnx", half, {"x": ["n", 8]}, ["y"], weights)
    with pytest.raises((InputError, ModelError), match="any n"):
        tvm_sparse.compile(path, fallback="off")


def test_slices_of_any_place(tmp_path):
    node = make_node("Slice", ["x", "s", "e"], ["y"])
    inputs = {"x": ["n", 8], "s": [1], "e": [1]}
    path = write_onnx(tmp_path / "m.onnx", [node], inputs, ["y"], {})
    model = onnx.load(path)
    for value in model.graph.input[1:]:
        value.type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, path)
    engine = tvm_sparse.compile(path, threads=1, fallback="off")
    for n, start, end in ((9, 2, 5), (3, 0, 3), (5, -2, 100), (5, -100, -1), (4, 3, 1), (4, 9, 12)):
        x = np.random.default_rng(0).standard_normal((n, 8)).astype("float32")
        found = engine.run({"x": x, "s": np.array([start]), "e": np.array([end])})
        np.testing.assert_array_equal(found["y"], x[start:end])


def test_what_depends_on_values_is_left_to_onnxruntime(tmp_path, caplog):
    node = make_node("NonZero", ["x"], ["y"])
    path = write_onnx(tmp_path / "m.onnx", [node], {"x": ["n", 8]}, ["y"], {})
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, path)
    with pytest.raises(InputError, match="any n"):
        tvm_sparse.compile(path, fallback="off")
    with caplog.at_level(logging.WARNING, "tvm_sparse"):
        tvm_sparse.compile(path, threads=1).save(tmp_path / "m.so")
    assert "ONNX Runtime runs the whole model" in caplog.text
    engine = tvm_sparse.load(tmp_path / "m.so")
    assert engine.inputs[0].shape == ("n", 8)
    assert [fallback.operator for fallback in engine.info.fallbacks] == ["NonZero"]
    for n in (9, 3):
        x = np.random.default_rng(0).integers(0, 2, (n, 8)).astype("float32")
        np.testing.assert_array_equal(engine.run({"x": x})["y"], np.nonzero(x))


def test_what_onnxruntime_cannot_run_is_the_first_error(tmp_path):
    path = write_onnx(
        tmp_path / "m.onnx",
        [make_node("Reshape", ["x", "to"], ["y"], domain="nobody")],
        {"x": ["n", 8]},
        ["y"],
        {"to": np.int64([-1])},
    )
    with pytest.raises(ModelError):
        tvm_sparse.compile(path)


def heads(nodes, weights, x, prefix):
    """Write attention among the tokens of `x`, and return its result."""
    rng = np.random.default_rng(0)
    for name in "qkv":
        weights[prefix + name] = (rng.standard_normal((32, 32)) / 6).astype("float32")
        nodes.append(make_node("MatMul", [x, prefix + name], [prefix + name + "x"]))
    nodes += [
        make_node("Transpose", [prefix + "kx"], [prefix + "t"], perm=[0, 2, 1]),
        make_node("MatMul", [prefix + "qx", prefix + "t"], [prefix + "s"]),
        make_node("Softmax", [prefix + "s"], [prefix + "p"], axis=-1),
        make_node("MatMul", [prefix + "p", prefix + "vx"], [prefix + "y"]),
    ]
    return prefix + "y"


def test_sizes_are_added(tmp_path):
    rng, weights = np.random.default_rng(0), {"first": np.ones((1, 1, 32), "float32")}
    nodes = [
        make_node("Shape", ["x"], ["b"], start=0, end=1),
        make_node("Concat", ["b", "one", "many"], ["sizes"], axis=0),
        make_node("Expand", ["first", "sizes"], ["token"]),
        make_node("Concat", ["token", "x", "z"], ["all"], axis=1),
    ]
    weights |= {"one": np.int64([1]), "many": np.int64([32])}
    y = heads(nodes, weights, "all", "")
    inputs = {"x": ["n", "s", 32], "z": ["n", "t", 32]}
    path = write_onnx(tmp_path / "m.onnx", nodes, inputs, [y], weights, 17)
    engine = tvm_sparse.compile(path)
    assert not engine.info.fallbacks and not engine.report.kept_by_tvm
    for n, s, t in ((1, 1, 1), (3, 20, 7), (2, 33, 40)):
        shapes = {"x": (n, s, 32), "z": (n, t, 32)}
        given = {k: rng.standard_normal(shape).astype("float32") for k, shape in shapes.items()}
        want = onnxruntime_outputs(path, given)[y]
        np.testing.assert_allclose(engine.run(given)[y], want, rtol=1e-4, atol=1e-5)


@pytest.fixture
def vision_transformer(tmp_path):
    """Write one whose table of positions is enlarged to the image; return its file."""
    rng, c = np.random.default_rng(0), [[32], [-1], [1, 32]]
    weights = {f"c{i}": np.int64(value) for i, value in enumerate(c)}
    weights |= {
        "patch": (rng.standard_normal((32, 3, 8, 8)) / 14).astype("float32"),
        "table": rng.standard_normal((1, 32, 4, 4)).astype("float32"),
    }
    nodes = [
        make_node("Conv", ["x", "patch"], ["p"], strides=[8, 8]),
        make_node("Shape", ["p"], ["b"], start=0, end=1),
        make_node("Shape", ["p"], ["hw"], start=2),
        make_node("Concat", ["c2", "hw"], ["sizes"], axis=0),
        make_node("Resize", ["table", "", "", "sizes"], ["enlarged"], mode="cubic"),
        make_node("Concat", ["b", "c0", "c1"], ["flat"], axis=0),
        make_node("Mul", ["p", "enlarged"], ["scaled"]),
        make_node("Add", ["scaled", "enlarged"], ["placed"]),
        make_node("Reshape", ["placed", "flat"], ["f"]),
        make_node("Transpose", ["f"], ["tokens"], perm=[0, 2, 1]),
    ]
    y = heads(nodes, weights, "tokens", "a")
    nodes.append(make_node("ReduceMean", [y], ["y"], axes=[1], keepdims=0))
    inputs = {"x": ["n", 3, "h", "w"]}
    return write_onnx(tmp_path / "vit.onnx", nodes, inputs, ["y"], weights, 17)


def test_constants_that_follow_sizes_in_an_unknown_way(vision_transformer):
    engine = tvm_sparse.compile(vision_transformer)
    assert engine.info.multiples == {} and not engine.report.kept_by_tvm
    (fallback,) = engine.info.fallbacks
    assert "Resize" in fallback.operator and "Conv" not in fallback.operator
    rng = np.random.default_rng(0)
    for n, h, w in ((1, 8, 8), (2, 31, 77), (1, 64, 40)):
        given = {"x": rng.standard_normal((n, 3, h, w)).astype("float32")}
        want = onnxruntime_outputs(vision_transformer, given)["y"]
        np.testing.assert_allclose(engine.run(given)["y"], want, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="follows the sizes in an unknown way"):
        tvm_sparse.compile(vision_transformer, fallback="off")


def test_formulas():
    at = probes(["batch", "sequence"])
    variables = {"batch": 5, "sequence": 100}  # numbers stand for the variables
    for made in (lambda b, s: 7, lambda b, s: s, lambda b, s: b * s, lambda b, s: 3 * s - 2):
        values = [made(*sizes.values()) for sizes in at]
        found = formula(values, at, variables)
        assert (found if isinstance(found, int) else found.value) == made(5, 100)
    assert formula([s["sequence"] // 2 for s in at], at, variables) is None
    at = probes(["batch", "sequence"], MOST)
    for made in (lambda b, s: b + s, lambda b, s: b * (s + 1), lambda b, s: (s + 1) ** 2 * b):
        found = formula([made(*sizes.values()) for sizes in at], at, variables)
        assert found == made(5, 100)
    assert formula([s["sequence"] // 2 for s in at], at, variables) is None


def test_sizes_by_the_names_of_dimensions(tmp_path):
    path = write_mlp(tmp_path / "mlp.onnx")
    model = onnx.load(path)
    assert named_shapes(model, {"batch": 2}) == {"x": (2, "tokens", 32)}
    assert named_shapes(model, {"batch": (2,)}) == {"x": (2, "tokens", 32)}
    assert named_shapes(model, {"batch": 2, "tokens": 5}) is None
    bind_shapes(model, {"batch": 2, "tokens": 5})
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [2, 5, 32]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"batch": (1, 2)}, "'batch' is a dimension.*--shape batch=1"),
        ({"batch": 0}, "'batch' is a dimension"),
        ({"batch": True}, "'batch' is a dimension"),
        ({"Batch": 1}, "unknown input 'Batch': did you mean 'batch'.*dimensions batch, tokens"),
    ],
)
def test_sizes_that_are_none(tmp_path, shapes, message):
    path = write_mlp(tmp_path / "mlp.onnx")
    for function in (named_shapes, bind_shapes):
        with pytest.raises(InputError, match=message):
            function(onnx.load(path), shapes)


def test_a_size_and_a_shape_that_differ(tmp_path):
    model = onnx.load(write_mlp(tmp_path / "mlp.onnx"))
    with pytest.raises(InputError, match="'batch' is 2 elsewhere"):
        bind_shapes(model, {"batch": 2, "x": (1, 5, 32)})


def test_what_to_do_has_the_sizes_that_are_known(tmp_path):
    model = onnx.load(write_mlp(tmp_path / "mlp.onnx"))
    with pytest.raises(InputError, match="--shape x=1,128,32"):
        bind_shapes(model, None)

"""What a model says is checked before anything is believed, allocated or computed."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.checks.choices import check_choices
from tvm_sparse.frontends.checks.node import CheckedNode
from tvm_sparse.frontends.checks.nodes import check_nodes
from tvm_sparse.frontends.onnx_file import read_model

IMAGE = {"x": [1, 4, 8, 8]}


def weight(*shape):
    return np.ones(shape, "float32")


def integers(*values):
    return np.array(values, "int64")


def model(nodes, inputs, constants=(), opset=17, outputs=("y",)):
    types = {"i": TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape)
            for name, shape in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(constants).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def node(op_type, *inputs, outputs=("y",), **attributes):
    return make_node(op_type, ["x", *inputs], list(outputs), "n", **attributes)


INVALID = {
    "weights are not as the kernel": (
        node("Conv", "w", kernel_shape=[5, 5]), IMAGE, {"w": weight(4, 4, 3, 3)}, "kernel_shape"
    ),
    "channels are not those of the groups": (
        node("Conv", "w", group=3), IMAGE, {"w": weight(4, 4, 3, 3)}, "groups do not fit"
    ),
    "a bias of another length": (
        node("ConvTranspose", "w", "b"), IMAGE, {"w": weight(4, 4, 3, 3), "b": weight(5)}, "bias"
    ),
    "a stride of 0": (
        node("AveragePool", kernel_shape=[2, 2], strides=[0, 1]), IMAGE, {}, "'strides'"
    ),
    "a window larger than the image": (
        node("MaxPool", kernel_shape=[99, 99]), IMAGE, {}, r"\[1, 4, -90, -90\]"
    ),
    "an axis of more than 32 bits": (node("Concat", "x", axis=2**32), {"x": [2, 3]}, {}, "'axis'"),
    "an axis that is not there": (
        node("CumSum", "a"), {"x": [2, 3]}, {"a": np.array(2)}, "its axis 2"
    ),
    "parts that do not add up": (
        node("Split", "s", outputs=("y", "z")), {"x": [8, 3]}, {"s": integers(3, 3)}, "split"
    ),
    "a range without end": (
        make_node("Range", ["zero", "x1", "zero"], ["y"], "n"),
        {"x": [1]},
        {"zero": np.float32(0), "x1": np.float32(5)},
        "no range",
    ),
    "a range of no numbers": (
        make_node("Range", ["a", "b", "a"], ["y"], "n"),
        {"x": [1]},
        {"a": np.float32(1), "b": np.float32("nan")},
        "no range",
    ),
    "an index": (node("Gather", "i"), {"x": [6, 8]}, {"i": integers(0, 6)}, "-6 to 5"),
    "a negative index": (
        node("GatherElements", "i", axis=1), {"x": [1, 8]}, {"i": integers(-9)[None]}, "-8 to 7"
    ),
    "coordinates": (
        node("ScatterND", "i", "u"),
        {"x": [6, 8]},
        {"i": integers(0, 8)[None], "u": weight(1)},
        "index 8, which is not from -8 to 7",
    ),
    "updates": (
        node("ScatterND", "i", "u"), {"x": [6, 8]}, {"i": integers(0)[None], "u": weight(7)}, "fit"
    ),
    "lengths of sequences": (
        node("RNN", "w", "r", "", "l", outputs=["", "y"], hidden_size=2),
        {"x": [3, 2, 4]},
        {"w": weight(1, 2, 4), "r": weight(1, 2, 2), "l": np.array([3, 4], "int32")},
        "index 4, which is not from 0 to 3",
    ),
    "weights of gates": (
        node("LSTM", "w", "r", outputs=["", "y"], hidden_size=2),
        {"x": [3, 2, 4]},
        {"w": weight(1, 8, 5), "r": weight(1, 8, 2)},
        "do not fit",
    ),
    "a scale of another length": (
        node("InstanceNormalization", "s", "s"), IMAGE, {"s": weight(5)}, "scale"
    ),
    "a slope that does not broadcast": (node("PRelu", "s"), IMAGE, {"s": weight(3)}, "broadcast"),
    "an equation without its axis": (
        node("Einsum", "x", equation="ij,kl->im"), {"x": [4, 4]}, {}, "label missing"
    ),
    "terabytes of padding": (
        node("Pad", "p"), {"x": [6, 8]}, {"p": integers(2**40, 0, 0, 0)}, "elements"
    ),
    "terabytes of copies": (node("Tile", "r"), {"x": [8]}, {"r": integers(2**40)}, "elements"),
    "terabytes of pixels": (
        node("Resize", "", "s", mode="linear"),
        IMAGE,
        {"s": np.array([1, 1, 2**20, 2**20], "float32")},
        "elements",
    ),
    "terabytes of zeros": (
        node("Expand", "s"), {"x": [1]}, {"s": integers(2**20, 2**20)}, "elements"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_node_is_an_error_that_names_it(name, tmp_path):
    invalid, inputs, constants, message = INVALID[name]
    with pytest.raises(ModelError, match=r"node 'n' \(" + invalid.op_type) as error:
        check_nodes(model([invalid], inputs, constants), tmp_path)
    error.match(message)


@pytest.mark.parametrize("operator", ["Sum", "Max", "Min", "Mean", "Concat", "Add", "Gemm"])
@pytest.mark.parametrize("inputs", [["x", ""], ["", "x"], ["x", "", "x"]])
def test_an_operand_that_is_needed_is_left_out(operator, inputs, tmp_path):
    """ONNX's inference crashes at some of them."""
    attributes = {"axis": 0} if operator == "Concat" else {}
    one = make_node(operator, inputs, ["y"], "n", **attributes)
    with pytest.raises(ModelError, match=r"node 'n' .* is left out"):
        check_nodes(model([one], {"x": [3, 3]}), tmp_path)
    path = tmp_path / "m.onnx"
    path.write_bytes(model([one], {"x": [3, 3]}).SerializeToString())
    with pytest.raises(ModelError, match=r"node 'n' .* is left out"):
        read_model(path)


def test_an_operand_that_is_optional_may_be_left_out(tmp_path):
    one = make_node("Clip", ["x", "", "c"], ["y"], "n")
    assert "y" in check_nodes(model([one], {"x": [3]}, {"c": np.float32(6)}), tmp_path)


WORDS = {
    "Resize": {"mode": "linearrr", "nearest_mode": "up", "keep_aspect_ratio_policy": "Stretch"},
    "Conv": {"auto_pad": "SAME"},
    "Pad": {"mode": "symmetric"},
    "LSTM": {"direction": "backward"},
    "ScatterND": {"reduction": "sum"},
    "GridSample": {"mode": "nearest\n", "padding_mode": "zero"},
}


@pytest.mark.parametrize(
    ("operator", "name", "word"), [(op, *item) for op, of in WORDS.items() for item in of.items()]
)
def test_words_that_the_standard_does_not_have(operator, name, word):
    checked = CheckedNode(node(operator, **{name: word}), {}, {}, None)
    with pytest.raises(ValueError, match=f"its attribute '{name}' is .*, and it is one of"):
        check_choices(checked)


def test_words_that_are_defaults_are_those_of_the_standard():
    """The tables have every default of every version of the operators from opset 7 on."""
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.since_version < 7:
            continue
        for name, attribute in schema.attributes.items():
            default = attribute.default_value
            if schema.domain == "" and default.type == onnx.AttributeProto.STRING and default.s:
                given = make_node(schema.name, [], [], **{name: default.s})
                check_choices(CheckedNode(given, {}, {}, None))


def test_more_outputs_than_a_node_has(tmp_path):
    split = node("Split", outputs=["y", "z"], num_outputs=2**40)
    with pytest.raises(ModelError, match="num_outputs"):
        check_nodes(model([split], {"x": [8, 3]}, opset=18), tmp_path)


def test_sizes_of_parts_of_what_is_not_known(tmp_path):
    """ONNX's inference says nothing where the input has no shape."""
    split = make_node("Split", ["r", "s"], ["y", "z"], "n", axis=1)
    reshape = make_node("Reshape", ["x", "i"], ["r"])
    split_model = model([reshape, split], {"x": [8, 3], "i": [2]}, {"s": integers(1, 1, 1)})
    with pytest.raises(ModelError, match="3 sizes of parts, and 2 outputs"):
        check_nodes(split_model, tmp_path)


def test_an_output_that_is_left_out_is_no_operand_of_others(tmp_path):
    w, r = weight(1, 16, 3), weight(1, 16, 4)
    nodes = [
        make_node("LSTM", ["x", "w", "r"], ["h", "", "c"], hidden_size=4),
        make_node("Squeeze", ["h", "a"], ["s"]),
        make_node("GRU", ["s", "g", "g"], ["y"], hidden_size=4, direction="bidirectional"),
    ]
    constants = {"w": w, "r": r, "g": weight(2, 12, 4), "a": integers(1)}
    types = check_nodes(model(nodes, {"x": [5, 2, 3]}, constants), tmp_path)
    assert [d.dim_value for d in types["y"].tensor_type.shape.dim] == [5, 2, 2, 4]


def test_the_branches_of_an_if_are_checked(tmp_path):
    wrong = helper.make_graph([node("Gather", "i")], "then", [], [onnx.ValueInfoProto(name="y")])
    right = helper.make_graph([node("Relu")], "else", [], [onnx.ValueInfoProto(name="y")])
    branch = make_node("If", ["c"], ["y"], then_branch=wrong, else_branch=right)
    with pytest.raises(ModelError, match="index 9"):
        check_nodes(model([branch], {"x": [6], "c": []}, {"i": integers(9)}), tmp_path)


def test_valid_nodes_have_the_types_of_the_standard(tmp_path):
    nodes = [node("Conv", "w", outputs=["c"]), make_node("Shape", ["c"], ["y"])]
    types = check_nodes(model(nodes, IMAGE, {"w": weight(5, 4, 3, 3)}), tmp_path)
    assert [d.dim_value for d in types["c"].tensor_type.shape.dim] == [1, 5, 6, 6]
    assert types["y"].tensor_type.elem_type == TensorProto.INT64


def inner(inputs, outputs):
    nodes = [make_node("Identity", ["x"], [name]) for name in outputs if name != "x"]
    values = [[onnx.ValueInfoProto(name=name) for name in names] for names in (inputs, outputs)]
    return helper.make_graph(nodes, "inner", *values)


BODIES = {
    "If": (["c"], {"then_branch": ([], ["a"]), "else_branch": ([], ["b", "d"])}, 17),
    "If with inputs": (["c"], {"then_branch": (["k"], ["a"]), "else_branch": ([], ["b"])}, 17),
    "Loop": (["", "c", "x"], {"body": (["k", "l", "m"], ["a", "b", "d"])}, 17),
    "Loop without its state": (["", "c", "x"], {"body": (["k", "l"], ["a", "b"])}, 17),
    "Scan": (["x"], {"body": (["k"], ["a", "b"])}, 17),
    "Scan with lengths": (["", "x"], {"body": (["k", "l"], ["a"])}, 8),
    "If without a branch": (["c"], {"then_branch": ([], ["a"])}, 17),
    "Loop without a body": (["", "c", "x"], {}, 17),
    "If that gives what is outside": (
        ["c"], {"then_branch": ([], ["x"]), "else_branch": ([], ["b"])}, 17
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_graphs_in_a_node_fit_it(name, tmp_path):
    inputs, graphs, opset = BODIES[name]
    graphs = {key: inner(*values) for key, values in graphs.items()}
    one = make_node(name.split()[0], inputs, ["y"], "n", **graphs)
    path = tmp_path / "m.onnx"
    path.write_bytes(model([one], {"x": [3], "c": []}, opset=opset).SerializeToString())
    with pytest.raises(ModelError, match=r"'?n'? .* needs a graph '|an inner graph gives 'x'"):
        read_model(path)


def test_an_attribute_that_comes_twice(tmp_path):
    one = make_node("Relu", ["x"], ["y"], "n", to=1)
    one.attribute.append(one.attribute[0])
    (tmp_path / "m.onnx").write_bytes(model([one], {"x": [3]}).SerializeToString())
    with pytest.raises(ModelError, match=r"node 'n' \(Relu\) has an attribute twice"):
        read_model(tmp_path / "m.onnx")


def calls(*bodies):
    """Return a model that calls the last of some functions; a body is the names that it calls."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for position, body in enumerate(bodies):
        names = [*(f"v{i}" for i in range(len(body))), "out"]
        nodes = [
            make_node(name, [names[i]], [names[i + 1]], domain="own" if name[0] == "F" else "")
            for i, name in enumerate(body)
        ]
        name = f"F{position}"
        functions.append(helper.make_function("own", name, ["v0"], ["out"], nodes, opsets))
    last = make_node(f"F{len(bodies) - 1}", ["x"], ["y"], "n", domain="own")
    return helper.make_model(
        helper.make_graph(
            [last],
            "g",
            [helper.make_tensor_value_info("x", 1, [4])],
            [helper.make_tensor_value_info("y", 1, [4])],
        ),
        opset_imports=opsets, ir_version=8, functions=functions,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("bodies", "message"),
    [
        ([["F0"]], "function 'F0' calls itself"),
        ([["F1"], ["Relu", "F0"]], "function 'F[01]' calls itself"),
        ([["Relu"], *([f"F{i}", f"F{i}"] for i in range(60))], "more than 100000 nodes"),
    ],
)
def test_functions_without_end(bodies, message, tmp_path):
    (tmp_path / "m.onnx").write_bytes(calls(*bodies).SerializeToString())
    with pytest.raises(ModelError, match=message):
        read_model(tmp_path / "m.onnx")


def test_functions_named_like_operators(tmp_path):
    """ONNX's own reference calls the function, and ONNX Runtime its own operator."""
    found = calls(["Relu"])
    found.functions[0].domain, found.functions[0].name = "", "Relu"
    (tmp_path / "m.onnx").write_bytes(found.SerializeToString())
    with pytest.raises(ModelError, match="'Relu' has the name of an operator of ONNX"):
        read_model(tmp_path / "m.onnx")


def test_functions_of_functions(tmp_path):
    (tmp_path / "m.onnx").write_bytes(calls(["Relu"], ["F0", "F0"]).SerializeToString())
    assert read_model(tmp_path / "m.onnx")[0].functions


class TestFile:
    @pytest.fixture
    def refused(self, tmp_path):
        def read(content, message, name="m.onnx"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ModelError) as error:
                read_model(tmp_path / name)
            error.match(message)
            assert "\n" not in str(error.value) and error.value.__suppress_context__ in (
                True,
                False,
            )

        return read

    @pytest.mark.parametrize("name", ["m.json", "m.textproto", "m.onnxtxt", "m.pbtxt"])
    @pytest.mark.parametrize("content", [b'{ "ir_version": nonsense [[[', b"[" * 50000])
    def test_nonsense_in_a_format_of_text(self, refused, name, content):
        refused(content, "not an ONNX model, or a truncated one: ", name)

    def test_a_device(self):
        with pytest.raises(ModelError, match="a device"):
            read_model("/dev/zero")

    def test_a_node_without_outputs(self, refused):
        empty = make_node("Relu", ["x"], [])
        content = model([empty, node("Relu")], {"x": [4]}).SerializeToString()
        refused(content, r"node 0 \(Relu\) has no output")

    def test_two_nodes_of_one_name(self, refused):
        content = model([node("Relu"), node("Exp")], {"x": [4]}).SerializeToString()
        refused(content, "makes 'y', which is there already")

    def test_an_input_of_terabytes(self, refused):
        content = model([node("Relu")], {"x": [2**20, 2**20]}).SerializeToString()
        refused(content, r"'x' has shape \[1048576, 1048576\]")

    def test_a_name_that_is_no_text(self, refused, tmp_path):
        content = model([node("Relu")], {"x": [4]}).SerializeToString()
        path = tmp_path / "m.onnx"
        path.write_bytes(content.replace(b"Relu", b"Re\xe1\xff"))
        with pytest.raises(ModelError, match="cannot be imported"):
            from tvm_sparse.frontends.onnx_importer import import_onnx

            import_onnx(path)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("offset", "abc", "described wrong"),
            ("offset", "-4", "described wrong"),
            ("length", "-4", "described wrong"),
            ("length", "4", "its length is 4, and its shape and type need 128 bytes"),
            ("offset", "4", "too short"),
            ("offset", str(10**30), "too short"),
            ("location", "a" * 5000, "not a valid ONNX model"),
            ("location", "/etc/passwd", "outside of the model's folder"),
        ],
    )
    def test_external_data(self, refused, tmp_path, key, value, message):
        (tmp_path / "w.bin").write_bytes(bytes(128))
        tensor = TensorProto(name="w", data_type=1, dims=[4, 8], data_location=1)
        for name, text in {"location": "w.bin", key: value}.items():
            tensor.external_data.add(key=name, value=text)
        found = model([node("MatMul", "w")], {"x": [3, 4]})
        found.graph.initializer.append(tensor)
        refused(found.SerializeToString(), message)

    @pytest.mark.parametrize("kind", [TensorProto.UNDEFINED, TensorProto.STRING, 99])
    @pytest.mark.parametrize("location", [TensorProto.DEFAULT, TensorProto.EXTERNAL])
    def test_types_of_weights(self, refused, tmp_path, kind, location):
        (tmp_path / "w.bin").write_bytes(bytes(128))
        tensor = TensorProto(name="w", data_type=kind, dims=[4, 4], data_location=location)
        if location == TensorProto.EXTERNAL:
            tensor.external_data.add(key="location", value="w.bin")
        found = model([node("MatMul", "w")], {"x": [3, 4]})
        found.graph.initializer.append(tensor)
        message = "is text" if kind == TensorProto.STRING else "does not know"
        if kind != TensorProto.STRING or location == TensorProto.EXTERNAL:
            refused(found.SerializeToString(), message)

"""The steps to the canonical form: each keeps what the model computes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvm_sparse
from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.canonical.block_constants import dequantized
from tvm_sparse.frontends.canonical.sparse_tensors import dense
from tvm_sparse.frontends.onnx_importer import import_onnx
from tvm_sparse.report.analysis import analyze
from tvm_sparse.testing.models import onnxruntime_outputs, pruned


def write(path, nodes, shape, weights=None, opset=17, **graph):
    """Write a model from "x" to "y"; `graph` are more parts of it."""
    functions = graph.pop("functions", [])
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name="y")],
        [
            weight if isinstance(weight, TensorProto) else numpy_helper.from_array(weight, name)
            for name, weight in (weights or {}).items()
        ],
        **graph,
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(f.domain, 1) for f in functions]
    model = helper.make_model(made, opset_imports=imports, ir_version=10, functions=functions)
    onnx.save(model, path)
    return path


def check(path, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    expected = onnxruntime_outputs(path, {"x": x})["y"]
    actual = tvm_sparse.compile(path, threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("node", "opset"),
    [
        (helper.make_node("Clip", ["x", "w"], ["y"], "n"), 6),
        (helper.make_node("Relu", ["x"], ["y"], "n"), 1),
        (helper.make_node("Softmax", ["x"], ["y"], "n", no_such=1), 9),
    ],
    ids=lambda value: str(getattr(value, "op_type", value)),
)
def test_nodes_that_their_old_opset_does_not_know_so(tmp_path, node, opset):
    """An operand of a later opset; an attribute that was needed; one that never existed."""
    if opset == 1:
        node.attribute.append(helper.make_attribute("beta", 1.0))
    path = write(tmp_path / "m.onnx", [node], (2, 3), {"w": np.float32(6)}, opset)
    with pytest.raises(ModelError, match=rf"not a valid model: node 'n' .*of opset {opset}"):
        tvm_sparse.compile(path)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scale", [2.0, 1.5])
@pytest.mark.parametrize("operator, opset", [("Upsample", 7), ("Upsample", 9), ("Resize", 10)])
def test_enlargements_of_old_opsets(tmp_path, operator, opset, mode, scale):
    scales = np.float32([1, 1, scale, scale])
    options = {"mode": mode} | ({"scales": scales.tolist()} if opset == 7 else {})
    inputs = ["x"] if opset == 7 else ["x", "s"]
    weights = {} if opset == 7 else {"s": scales}
    node = helper.make_node(operator, inputs, ["y"], **options)
    check(write(tmp_path / "m.onnx", [node], (1, 3, 6, 5), weights, opset), (1, 3, 6, 5))


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Slice", ["x"], ["y"], axes=[1, 2], starts=[1, -2], ends=[3, 99]),
        helper.make_node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 3, 0], value=2.0),
        helper.make_node("Clip", ["x"], ["y"], min=-0.5, max=0.5),
        helper.make_node("Softmax", ["x"], ["y"], axis=2),
        helper.make_node("Dropout", ["x"], ["y"], ratio=0.5),
        helper.make_node("TopK", ["x"], ["y", "i"], axis=1, k=2),
        helper.make_node("ReduceSum", ["x"], ["y"], axes=[1], keepdims=0),
    ],
    ids=lambda node: node.op_type,
)
def test_operators_of_opset_9(tmp_path, node):
    check(write(tmp_path / "m.onnx", [node], (1, 4, 6, 5), opset=9), (1, 4, 6, 5))


@pytest.mark.parametrize("are_inputs", [False, True])
def test_weights_in_the_oldest_version_of_the_format(tmp_path, are_inputs):
    """Weights had to be inputs in it; exporters did not always keep to that."""
    rng = np.random.default_rng(0)
    weights = {
        name: np.abs(rng.standard_normal(shape)).astype("float32")
        for name, shape in (("g", 4), ("b", 4), ("m", 4), ("v", 4), ("w", (300, 4, 1, 1)))
    }
    nodes = [
        helper.make_node("BatchNormalization", ["x", *"gbmv"], ["n"]),
        helper.make_node("Conv", ["n", "w"], ["y"]),
    ]
    model = onnx.load(write(tmp_path / "m.onnx", nodes, (1, 4, 6, 5), weights, opset=8))
    model.ir_version = 3
    if are_inputs:
        model.graph.input.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
            for name, array in weights.items()
        )
    onnx.save(model, tmp_path / "m.onnx")
    check(tmp_path / "m.onnx", (1, 4, 6, 5))


def test_large_weights_of_an_old_opset_are_kept(tmp_path):
    weights = {"w": np.random.default_rng(1).standard_normal((64, 32)).astype("float32")}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Clip", ["z"], ["y"], min=0.0),
    ]
    check(write(tmp_path / "m.onnx", nodes, (3, 64), weights, opset=9), (3, 64))


def sparse(array, linear=True):
    at = np.flatnonzero(array)
    indices = at if linear else np.argwhere(array)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(array.ravel()[at], "w"),
        numpy_helper.from_array(indices.astype("int64"), "i"),
        array.shape,
    )


@pytest.mark.parametrize("linear", [True, False])
def test_a_sparse_initializer_is_a_pruned_weight(tmp_path, linear):
    weight = pruned(np.random.default_rng(2), (64, 96), 0.1)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = write(tmp_path / "m.onnx", [node], (7, 64), sparse_initializer=[sparse(weight, linear)])
    x = np.random.default_rng(0).standard_normal((7, 64)).astype("float32")
    actual = tvm_sparse.compile(path, threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(actual, x @ weight, rtol=1e-4, atol=1e-4)
    (layer,) = analyze(path).layers
    assert layer.density < 0.15


def test_a_sparse_constant_is_dense(tmp_path):
    weight = pruned(np.random.default_rng(2), (4, 3), 0.5)
    nodes = [
        helper.make_node("Constant", [], ["w"], sparse_value=sparse(weight)),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, (2, 4))
    x = np.random.default_rng(0).standard_normal((2, 4)).astype("float32")
    actual = tvm_sparse.compile(path, threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(actual, x @ weight, rtol=1e-4, atol=1e-5)


def test_wrong_indices_of_a_sparse_tensor():
    broken = sparse(np.eye(3, dtype="float32"))
    broken.indices.CopyFrom(numpy_helper.from_array(np.array([0, 4, 99]), "i"))
    with pytest.raises(ModelError, match="'w': its indices are wrong"):
        dense(broken, "w", Path())


def test_functions_are_written_out(tmp_path):
    double = helper.make_function(
        "mine",
        "Double",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Double", ["x"], ["z"], domain="mine"),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    check(write(tmp_path / "m.onnx", nodes, (2, 3), functions=[double]), (2, 3))


@pytest.mark.parametrize(
    "node, opset",
    [
        (helper.make_node("Celu", ["x"], ["y"], alpha=0.7), 17),
        (helper.make_node("CenterCropPad", ["x", "s"], ["y"], axes=[1, 2]), 18),
    ],
    ids=lambda value: getattr(value, "op_type", ""),
)
def test_functions_of_the_standard_are_written_out(tmp_path, node, opset):
    weights = {"s": np.array([3, 7])} if "s" in node.input else {}
    check(write(tmp_path / "m.onnx", [node], (2, 5, 4), weights, opset), (2, 5, 4))


def test_attention_with_a_second_output_is_written_out(tmp_path):
    nodes = [
        helper.make_node("Attention", ["x", "x", "x"], ["a", "", "", "scores"]),
        helper.make_node("MatMul", ["scores", "a"], ["y"]),
    ]
    check(write(tmp_path / "m.onnx", nodes, (1, 2, 6, 8), opset=23), (1, 2, 6, 8))


@pytest.mark.parametrize("position", [0, 1])
def test_empty_operands_of_a_concatenation(tmp_path, position):
    names = ["x", "x"]
    names.insert(position, "e")
    node = helper.make_node("Concat", names, ["y"], axis=1)
    path = write(tmp_path / "m.onnx", [node], (1, 5, 2), {"e": np.zeros((1, 0, 2), "float32")})
    check(path, (1, 5, 2))


@pytest.mark.parametrize("data_type", [TensorProto.INT4, TensorProto.UINT4])
@pytest.mark.parametrize("block", [0, 4])
def test_constants_of_four_bits(tmp_path, data_type, block):
    rng = np.random.default_rng(3)
    low = -8 if data_type == TensorProto.INT4 else 0
    values = rng.integers(low, low + 16, (8, 6))
    shape = (2, 6) if block else (6,)
    points = rng.integers(low, low + 16, shape)
    weights = {
        "q": helper.make_tensor("q", data_type, values.shape, values.ravel()),
        "s": rng.uniform(0.1, 1, shape).astype("float32"),
        "z": helper.make_tensor("z", data_type, shape, points.ravel()),
    }
    options = {"axis": 0, "block_size": block} if block else {"axis": 1}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], **options),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    check(write(tmp_path / "m.onnx", nodes, (3, 8), weights, opset=21), (3, 8))


@pytest.mark.parametrize("sign", [-1, 1])
def test_constants_that_only_a_branch_reads_stay(tmp_path, sign):
    out = [onnx.ValueInfoProto(name="b")]
    then, otherwise = (
        helper.make_graph([helper.make_node("Add", ["p", read], ["b"])], "branch", [], out)
        for read in ("one", "two")
    )
    weights = {
        "q": helper.make_tensor("q", TensorProto.INT4, (2, 3), [1, -3, 5, 7, 0, -8]),
        "s": np.float32(0.5),
        "zero": np.float32(0),
        "sign": np.float32(sign),
        "one": np.float32(1),
        "two": np.float32(2),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "sign"], ["limit"]),
        helper.make_node("Greater", ["limit", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=otherwise),
    ]
    check(write(tmp_path / "m.onnx", nodes, (4, 2), weights, opset=21), (4, 2))


def test_the_last_block_may_be_short():
    values, scale = np.arange(5, dtype="int8"), np.float32([1, 2, 3])
    result = dequantized(values, scale, axis=0, block=2)
    np.testing.assert_array_equal(result, [0, 1, 4, 6, 12])


def test_an_invalid_model_is_refused_with_the_reason_of_onnx_runtime(tmp_path):
    node = helper.make_node("NoSuch", ["x"], ["y"], name="r")
    path = write(tmp_path / "m.onnx", [node], (2, 3))
    with pytest.raises(ModelError, match=r"not a valid model: .*NoSuch.*onnx\.checker"):
        import_onnx(path)


@pytest.mark.parametrize("sign", [-1, 1])
def test_nodes_in_the_branches_of_an_if_are_supervised_too(tmp_path, sign):
    out = [onnx.ValueInfoProto(name="b")]
    pools = [
        helper.make_node("MaxPool", ["x"], ["b"], kernel_shape=[3], strides=[2], auto_pad=auto_pad)
        for auto_pad in ("SAME_LOWER", "SAME_UPPER")
    ]
    then, otherwise = (helper.make_graph([pool], "branch", [], out) for pool in pools)
    nodes = [
        helper.make_node("Greater", ["limit", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=otherwise),
    ]
    nodes.insert(0, helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0))
    nodes.insert(1, helper.make_node("Mul", ["largest", "sign"], ["limit"]))
    weights = {"zero": np.float32(0), "sign": np.float32(sign)}
    check(write(tmp_path / "m.onnx", nodes, (1, 2, 12), weights), (1, 2, 12))


class TestScanOfOpset8:
    @staticmethod
    def write(path, batch):
        state, elements = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("s", "e")
        )
        results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("t", "o")]
        body = helper.make_graph(
            [helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Tanh", ["t"], ["o"])],
            "body",
            [state, elements],
            results,
        )
        scan = helper.make_node(
            "Scan", ["", "first", "x"], ["last", "y"], name="/scan", num_scan_inputs=1, body=body
        )
        first = helper.make_node("ReduceMean", ["x"], ["first"], axes=[1], keepdims=0)
        return write(path, [first, scan], (batch, 3, 2), opset=8)

    def test_of_one_sequence(self, tmp_path):
        """ONNX Runtime runs such a Scan only if its state is an input of the model."""
        x = np.random.default_rng(0).standard_normal((1, 3, 2)).astype("float32")
        engine = tvm_sparse.compile(self.write(tmp_path / "m.onnx", 1), threads=1)
        expected = np.tanh(x.mean(1, keepdims=True) + x.cumsum(1))
        np.testing.assert_allclose(engine.run({"x": x})["y"], expected, rtol=1e-5)

    def test_of_more_is_refused(self, tmp_path):
        with pytest.raises(ModelError, match=r"'/scan' \(Scan\): opset 8"):
            tvm_sparse.compile(self.write(tmp_path / "m.onnx", 2))


@pytest.mark.parametrize("operator", ["HannWindow", "BlackmanWindow"])
def test_defaults_of_functions_that_are_written_out(tmp_path, operator):
    nodes = [helper.make_node(operator, ["n"], ["w"]), helper.make_node("Mul", ["x", "w"], ["y"])]
    check(write(tmp_path / "m.onnx", nodes, (2, 10), {"n": np.array(10)}), (2, 10))

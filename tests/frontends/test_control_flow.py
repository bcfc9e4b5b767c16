"""If, Loop and Scan whose course is known are written out; others stay for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvm_sparse
from tvm_sparse.errors import PLEASE_REPORT, ModelError
from tvm_sparse.frontends import value_types
from tvm_sparse.frontends.canonical import control_flow
from tvm_sparse.frontends.canonical.control_flow import CONTROL_FLOW, write_out

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node, value = helper.make_node, helper.make_tensor_value_info


def model_of(nodes, inputs, outputs, constants, opset=17):
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    results = [value(name, dtype, None) for name, dtype in outputs.items()]
    graph = helper.make_graph(nodes, "g", inputs, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def written_out(model, is_converted=lambda _: True):
    """Return the model with its control flow written out, after comparing it by ONNX Runtime."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed = write_out(changed, Path(), is_converted)
    rng = np.random.default_rng(0)
    feed = {
        i.name: rng.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim]).astype(
            helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type)
        )
        for i in model.graph.input
    }
    got, want = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, feed
        )
        for m in (changed, model)
    )
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return changed


def kept(model):
    return [node.op_type for node in model.graph.node if node.op_type in CONTROL_FLOW]


X = [value("x", FLOAT, (8, 1, 6))]


def recurrence(condition=(), reads="i"):
    """Return the body of a loop over the rows of x, whose state and its copy are results."""
    nodes = [
        node("Gather", ["x", reads], ["row"], axis=0),
        node("Add", ["row", "state"], ["sum"]),
        node("MatMul", ["sum", "w"], ["product"], "product"),
        node("Tanh", ["product"], ["next"]),
        node("Identity", ["next"], ["shown"]),
        *(condition or [node("Identity", ["going"], ["again"])]),
    ]
    inputs = [value("i", INT, ()), value("going", BOOL, ()), value("state", FLOAT, (1, 6))]
    results = [value("again", BOOL, ()), value("next", FLOAT, (1, 6)), value("shown", FLOAT, None)]
    constants = [numpy_helper.from_array(np.array(3), "three")]
    return helper.make_graph(nodes, "body", inputs, results, constants)


def loop_model(trips="n", going="t", body=None, before=(), opset=17, **constants):
    rng = np.random.default_rng(1)
    constants = {
        "n": np.array(8),
        "t": np.array(True),
        "h0": np.zeros((1, 6), "float32"),
        "w": (rng.standard_normal((6, 6)) * 0.3).astype("float32"),
        **constants,
    }
    nodes = [
        *before,
        node("Loop", [trips, going, "h0"], ["h", "ys"], "loop", body=body or recurrence()),
    ]
    return model_of(nodes, X, {"h": FLOAT, "ys": FLOAT}, constants, opset)


LENGTH = [
    node("Shape", ["x"], ["shape"]),
    node("Gather", ["shape", "zero"], ["length"], axis=0),
]
WHILE = [node("Less", ["i", "three"], ["again"])]


@pytest.mark.parametrize(
    ("model", "iterations"),
    [
        (loop_model(), 8),
        (loop_model(opset=12), 8),
        (loop_model(going=""), 8),
        (loop_model(trips="length", before=LENGTH, zero=np.array(0)), 8),
        (loop_model(trips="", body=recurrence(WHILE)), 4),
        (loop_model(n=np.array(2**62), body=recurrence(WHILE)), 4),
        (loop_model(n=np.array(1)), 1),
    ],
)
def test_a_loop_of_known_length_is_written_out(model, iterations):
    changed = written_out(model)
    assert kept(changed) == []
    products = [node for node in changed.graph.node if node.op_type == "MatMul"]
    assert [node.name for node in products] == [f"loop/{i}/product" for i in range(iterations)]
    assert {node.input[1] for node in products} == {"w"}


@pytest.mark.parametrize(
    "model",
    [
        loop_model(n=np.array(0)),
        loop_model(t=np.array(False)),
    ],
)
def test_a_loop_without_iterations_and_unknown_shapes_stays(model):
    assert kept(written_out(model)) == ["Loop"]


def test_a_loop_that_an_input_ends_stays():
    ends = [
        node("ReduceSum", ["next"], ["total"], keepdims=0),
        node("Less", ["total", "bound"], ["again"]),
    ]
    assert kept(written_out(loop_model(body=recurrence(ends), bound=np.float32(9)))) == ["Loop"]


@pytest.mark.parametrize("limit", ["MOST_NODES", "MOST_WEIGHT_BYTES"])
def test_a_large_loop_stays(limit, monkeypatch):
    monkeypatch.setattr(control_flow, limit, 30)
    assert kept(written_out(loop_model())) == ["Loop"]


def test_a_loop_of_nodes_for_onnx_runtime_stays():
    assert kept(written_out(loop_model(), lambda node: node.op_type != "Tanh")) == ["Loop"]


def test_a_long_loop_takes_no_time():
    model = loop_model(n=np.array(2**62))
    assert kept(write_out(model, Path(), lambda _: True)) == ["Loop"]


def test_a_loop_without_end_is_stopped_where_its_values_are_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(value_types, "SAMPLING_SECONDS", 0.2)
    path = tmp_path / "m.onnx"
    onnx.save(loop_model(trips="", body=recurrence(reads="three")), path)
    with pytest.raises(ModelError, match="'h' is known only at run time"):
        tvm_sparse.compile(path, threads=1)


@pytest.mark.parametrize("backwards", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_scan_is_written_out(axis, backwards):
    body = helper.make_graph(
        [
            node("Add", ["state", "part"], ["next"]),
            node("Mul", ["next", "other"], ["shown"]),
        ],
        "body",
        [value("state", FLOAT, None), value("part", FLOAT, None), value("other", FLOAT, None)],
        [value("next", FLOAT, None), value("shown", FLOAT, None)],
    )
    shape = [3, 4, 5]
    del shape[axis]
    scan = node(
        *("Scan", ["h0", "x", "x"], ["h", "ys"], "scan"),
        **{"body": body, "num_scan_inputs": 2, "scan_input_axes": [axis, axis]},
        **{"scan_input_directions": [0, backwards], "scan_output_axes": [axis]},
        scan_output_directions=[backwards],
    )
    inputs = [value("x", FLOAT, (3, 4, 5))]
    constants = {"h0": np.ones(shape, "float32")}
    changed = written_out(model_of([scan], inputs, {"h": FLOAT, "ys": FLOAT}, constants))
    assert kept(changed) == []


def branches(first="then", second="else"):
    return {
        f"{name}_branch": helper.make_graph(
            [node(operator, ["x"], ["inner"], "layer"), node("Add", ["inner", "one"], ["out"])],
            name,
            [],
            [value("out", FLOAT, None)],
            [numpy_helper.from_array(np.float32(number), "one")],
        )
        for name, operator, number in ((first, "Relu", 1), (second, "Neg", 2))
    }


@pytest.mark.parametrize("taken", [True, False])
def test_an_if_of_a_constant_is_decided(taken):
    """The nodes of both branches have the same names, and so do their constants."""
    model = model_of([node("If", ["c"], ["y"], "if", **branches())], X, {"y": FLOAT}, {"c": taken})
    changed = written_out(model)
    assert [node.op_type for node in changed.graph.node] == [
        "Relu" if taken else "Neg",
        "Add",
        "Identity",
    ]


def test_an_if_on_shapes_is_decided_in_a_loop():
    """tf2onnx writes such conditions; here it depends on the number of the iteration, too."""
    inside = node("If", ["small"], ["row"], "if", **branches())
    body = helper.make_graph(
        [
            node("Less", ["i", "half"], ["small"]),
            inside,
            node("Add", ["row", "state"], ["next"]),
            node("Identity", ["going"], ["again"]),
        ],
        "body",
        [value("i", INT, ()), value("going", BOOL, ()), value("state", FLOAT, (8, 1, 6))],
        [value("again", BOOL, ()), value("next", FLOAT, (8, 1, 6))],
    )
    nodes = [
        *LENGTH,
        node("Div", ["length", "two"], ["half"]),
        node("Loop", ["length", "", "x"], ["h"], "loop", body=body),
    ]
    constants = {"zero": np.array(0), "two": np.array(2)}
    changed = written_out(model_of(nodes, X, {"h": FLOAT}, constants))
    assert kept(changed) == []
    operators = [node.op_type for node in changed.graph.node]
    assert (operators.count("Relu"), operators.count("Neg")) == (4, 4)


def test_an_if_on_an_input_stays():
    inputs = [*X, value("c", BOOL, ())]
    model = model_of([node("If", ["c"], ["y"], "if", **branches())], inputs, {"y": FLOAT}, {})
    assert kept(write_out(model, Path(), lambda _: True)) == ["If"]


def test_branches_of_several_shapes_fall_back_with_what_reads_them(tmp_path, caplog):
    """ONNX's inference believes what the branches declare, and compiled code knows better."""
    rows = [
        helper.make_graph([node(op, ["x"], [out])], out, [], [value(out, FLOAT, (3, 4))])
        for op, out in (("Exp", "e"), ("ReduceLogSumExp", "r"))
    ]
    nodes = [
        node("If", ["c"], ["b"], "if", then_branch=rows[0], else_branch=rows[1]),
        node("Mul", ["b", "half"], ["m"], "mul"),
        node("Add", ["m", "x"], ["y"], "add"),
    ]
    inputs = [value("c", BOOL, ()), value("x", FLOAT, (3, 4))]
    model = model_of(nodes, inputs, {"y": FLOAT}, {"half": np.float32(0.5)})
    onnx.save(model, tmp_path / "m.onnx")
    engine = tvm_sparse.compile(tmp_path / "m.onnx")
    assert {name for found in engine.info.fallbacks for name in found.nodes} >= {"if", "mul"}
    assert PLEASE_REPORT not in caplog.text
    x = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for chosen in (np.array(True), np.array(False)):
        (expected,) = session.run(None, {"c": chosen, "x": x})
        np.testing.assert_allclose(engine.run({"c": chosen, "x": x})["y"], expected, rtol=1e-5)


def test_a_written_out_loop_is_compiled(tmp_path):
    model = loop_model()
    onnx.save(model, tmp_path / "m.onnx")
    engine = tvm_sparse.compile(tmp_path / "m.onnx")
    assert not engine.info.fallbacks
    x = np.random.default_rng(0).standard_normal((8, 1, 6)).astype("float32")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for ours, theirs in zip(
        engine.run({"x": x}).values(), session.run(None, {"x": x}), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)

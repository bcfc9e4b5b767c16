"""Mixtures of experts in the forms that exporters write, and graphs that only resemble them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.frontends.canonical.expert_mixtures import gather_experts
from tvm_sparse.testing.models import onnxruntime_outputs
from tvm_sparse.testing.one_operator import write

DATA = Path(__file__).parents[1] / "data"
EXPORTS = sorted(path.stem for path in DATA.glob("mixture*.onnx"))
EXPERTS, CHOSEN, HIDDEN, INNER, TOKENS = 5, 2, 12, 20, 7


@pytest.mark.parametrize("name", EXPORTS)
def test_exports(name):
    path = DATA / f"{name}.onnx"
    engine = tvm_sparse.compile(path, threads=2, fallback="off")
    kernels = [layer.kernel for layer in engine.report.layers if len(layer.shape) == 3]
    assert kernels.count("expert_linear") == 4  # two layers of two mixtures
    rng = np.random.default_rng(0)
    for scale in (1, 5):
        x = (scale * rng.standard_normal(engine.inputs[0].shape)).astype("float32")
        (want,) = onnxruntime_outputs(path, {engine.inputs[0].name: x}).values()
        (got,) = engine.run([x]).values()
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def constants(**more):
    rng = np.random.default_rng(1)
    tensors = {"router": rng.standard_normal((HIDDEN, EXPERTS)).astype("float32")}
    for expert in range(EXPERTS):
        tensors[f"a{expert}"] = rng.standard_normal((HIDDEN, INNER)).astype("float32")
        tensors[f"b{expert}"] = rng.standard_normal((INNER, HIDDEN)).astype("float32")
        tensors[f"n{expert}"] = np.array(expert)
    return {
        **tensors,
        "k": np.array([CHOSEN]),
        "zeros": np.zeros((TOKENS, HIDDEN), "float32"),
        "no_shares": np.zeros((TOKENS, EXPERTS), "float32"),
        "last": np.array([-1]),
        **more,
    }


def router():
    return [
        make_node("MatMul", ["x", "router"], ["logits"]),
        make_node("TopK", ["logits", "k"], ["top", "chosen"]),
        make_node("Softmax", ["top"], ["shares"]),
        make_node("ScatterElements", ["no_shares", "chosen", "shares"], ["every"], axis=1),
    ]


def expert(number, rows, activation="Relu"):
    return [
        make_node("MatMul", [rows, f"a{number}"], [f"in{number}"]),
        make_node(activation, [f"in{number}"], [f"act{number}"]),
        make_node("MatMul", [f"act{number}", f"b{number}"], [f"out{number}"]),
    ]


def masked(order=range(EXPERTS), activations=("Relu",) * EXPERTS, squared=None):
    """Every expert computes all tokens; expert `i` of the graph gets the share of `order[i]`."""
    nodes, total = router(), "zeros"
    for number, share in enumerate(order):
        nodes += expert(number, "x", activations[number])
        nodes += [
            make_node("Gather", ["every", f"n{share}"], [f"flat{number}"], axis=1),
            make_node("Unsqueeze", [f"flat{number}", "last"], [f"share{number}"]),
            make_node("Mul", [f"out{number}", f"share{number}"], [f"part{number}"]),
        ]
        part = f"part{number}"
        if number == squared:
            nodes.append(make_node("Mul", [part, f"share{number}"], [f"twice{number}"]))
            part = f"twice{number}"
        nodes.append(make_node("Add", [total, part], [f"sum{number}"]))
        total = f"sum{number}"
    return [*nodes, make_node("Relu", [total], ["y"])]


def sent(order=range(EXPERTS)):
    """A loop whose experts read the tokens that are sent to them, by numbers of tokens alone."""
    nodes, total = router(), "zeros"
    for number, wanted in enumerate(order):
        nodes += [
            make_node("Equal", ["chosen", f"n{wanted}"], [f"is{number}"]),
            make_node("NonZero", [f"is{number}"], [f"at{number}"]),
            make_node("Transpose", [f"at{number}"], [f"place{number}"], perm=[1, 0]),
            make_node("GatherND", ["shares", f"place{number}"], [f"flat{number}"]),
            make_node("Unsqueeze", [f"flat{number}", "last"], [f"share{number}"]),
            make_node("Gather", [f"at{number}", "first"], [f"token{number}"]),
            make_node("Gather", ["x", f"token{number}"], [f"rows{number}"]),
            *expert(number, f"rows{number}"),
            make_node("Mul", [f"share{number}", f"out{number}"], [f"part{number}"]),
            make_node("Unsqueeze", [f"token{number}", "last"], [f"where{number}"]),
            make_node(
                "ScatterND", [total, f"where{number}", f"part{number}"], [f"sum{number}"],
                reduction="add",
            ),
        ]  # fmt: skip
        total = f"sum{number}"
    return [*nodes, make_node("Relu", [total], ["y"])]


def hit(hits, activations=None, chosen="is_sent", each="no_bias"):
    """A loop that was traced for as many experts as an example hit; gate and up are one product.

    The sizes of its halves are computed of the product's shape, as torch writes `chunk`.
    """
    nodes = [
        *router(),
        make_node("OneHot", ["chosen", "classes", "on"], ["one_hot"], axis=-1),
        make_node("Transpose", ["one_hot"], ["is_sent"], perm=[2, 1, 0]),
        make_node("ReduceSum", [chosen, "token_axes"], ["sent"], keepdims=0),
        make_node("Greater", ["sent", "n0"], ["is_hit"]),
        make_node("NonZero", ["is_hit"], ["hit"]),
        make_node("Transpose", ["hit"], ["hit_rows"], perm=[1, 0]),
        make_node("Split", ["hit_rows", "ones"], [f"e{i}" for i in range(hits)], axis=0),
    ]
    total = "zeros"
    for i in range(hits):
        activation = activations[i] if activations else "Sigmoid"
        steps = [
            ("Reshape", [f"e{i}", "scalar"], ["number"]),
            ("Gather", ["is_sent", f"number{i}"], ["mine"]),
            ("NonZero", [f"mine{i}"], ["at"]),
            ("Gather", [f"at{i}", "n0"], ["rank"]),
            ("Gather", [f"at{i}", "n1"], ["token"]),
            ("Gather", ["x", f"token{i}"], ["rows"]),
            ("Gather", ["gate_up", f"number{i}"], ["weight"]),
            ("MatMul", [f"rows{i}", f"weight{i}"], ["both"]),
            ("Shape", [f"both{i}"], ["shape"]),
            ("Gather", [f"shape{i}", "last"], ["width"]),
            ("Div", [f"width{i}", "two"], ["half"]),
            ("Slice", [f"both{i}", "first", f"half{i}", "last"], ["gate"]),
            ("Slice", [f"both{i}", f"half{i}", f"width{i}", "last"], ["up"]),
            (activation, [f"gate{i}"], ["act"]),
            ("Mul", [f"act{i}", f"up{i}"], ["inner"]),
            ("Gather", ["down", f"number{i}"], ["turned"]),
            ("Transpose", [f"turned{i}"], ["narrow"]),
            ("MatMul", [f"inner{i}", f"narrow{i}"], ["result"]),
            ("Unsqueeze", [f"token{i}", "last"], ["where"]),
            ("Unsqueeze", [f"rank{i}", "last"], ["column"]),
            ("Concat", [f"where{i}", f"column{i}"], ["place"]),
            ("GatherND", ["shares", f"place{i}"], ["flat"]),
            ("Unsqueeze", [f"flat{i}", "last"], ["share"]),
            ("Mul", [f"result{i}", f"share{i}"], ["part"]),
            ("ScatterND", [total, f"where{i}", f"part{i}"], ["added"]),
            ("Add", [f"added{i}", each], ["sum"]),
        ]
        more = {"Concat": {"axis": -1}, "ScatterND": {"reduction": "add"}}
        more["Transpose"] = {"perm": [1, 0]}
        nodes += [
            make_node(kind, read, [f"{made[0]}{i}"], **more.get(kind, {}))
            for kind, read, made in steps
        ]
        total = f"sum{i}"
    return [*nodes, make_node("Relu", [total], ["y"])]


def hit_constants(hits):
    rng = np.random.default_rng(3)
    more = {name: np.array([n]) for name, n in {"first": 0, "two": 2, "classes": EXPERTS}.items()}
    return constants(
        **more,
        gate_up=rng.standard_normal((EXPERTS, HIDDEN, 2 * INNER)).astype("float32"),
        down=rng.standard_normal((EXPERTS, HIDDEN, INNER)).astype("float32"),
        no_bias=np.zeros(1, "float32"),
        bias=np.ones(1, "float32"),
        on=np.arange(2),
        token_axes=np.array([1, 2]),
        ones=np.ones(hits, np.int64),
        scalar=np.zeros(0, np.int64),
    )


def test_a_loop_over_the_experts_that_were_hit(tmp_path):
    x = np.random.default_rng(5).standard_normal((TOKENS, HIDDEN)).astype("float32")
    alike = np.repeat(x[:1], TOKENS, 0) * np.linspace(0.5, 2, TOKENS, dtype="float32")[:, None]
    paths = {
        hits: write(
            tmp_path / f"{hits}.onnx", hit(hits), {"x": x}, TensorProto.FLOAT, hit_constants(hits),
            opset=18,
        )
        for hits in (CHOSEN, EXPERTS)
    }  # fmt: skip
    path = paths[CHOSEN]
    model = rewritten(path)
    assert len([node for node in model.graph.node if node.op_type == "MatMul"]) == 3
    assert "NonZero" not in {node.op_type for node in model.graph.node}
    engine = tvm_sparse.compile(path, fallback="off", verify=False)
    # ONNX Runtime computes as many experts as the loop has iterations, and no other tokens.
    for tokens, hits in ((alike, CHOSEN), (x, EXPERTS)):
        (want,) = onnxruntime_outputs(paths[hits], {"x": tokens}).values()
        (got,) = engine.run({"x": tokens}).values()
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize(
    "nodes",
    [
        hit(3, activations=["Sigmoid", "Tanh", "Sigmoid"]),
        hit(3, chosen="not_sent"),
        hit(3, each="bias"),
    ],
    ids=["another activation", "experts that were not hit", "more than a sum"],
)
def test_a_loop_over_something_else_stays(tmp_path, nodes):
    x = np.random.default_rng(5).standard_normal((TOKENS, HIDDEN)).astype("float32")
    inverse = make_node("Sub", ["n1", "is_sent"], ["not_sent"])
    place = next(i for i, node in enumerate(nodes) if node.op_type == "ReduceSum")
    nodes = [*nodes[:place], inverse, *nodes[place:]]
    tensors = hit_constants(3)
    path = write(tmp_path / "m.onnx", nodes, {"x": x}, TensorProto.FLOAT, tensors, opset=18)
    before = onnx.load(path)
    assert rewritten(path) == before


def rewritten(path):
    return gather_experts(onnx.load(path, load_external_data=False), path.parent)


@pytest.mark.parametrize(
    "nodes",
    [masked(), masked(order=[3, 0, 4, 1, 2]), sent(), sent(order=[4, 3, 2, 1, 0])],
    ids=["masked", "masked, another order", "sent", "sent, another order"],
)
def test_only_chosen_experts_are_computed(tmp_path, nodes):
    x = np.random.default_rng(5).standard_normal((TOKENS, HIDDEN)).astype("float32")
    tensors = constants(first=np.array(0))
    path = write(tmp_path / "m.onnx", nodes, {"x": x}, TensorProto.FLOAT, tensors, opset=18)
    model = rewritten(path)
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert len(products) == 3  # the router's, and one for each layer of the experts
    assert not {"NonZero", "ScatterND"}.intersection(n.op_type for n in model.graph.node)
    (want,) = onnxruntime_outputs(path, {"x": x}).values()
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (same,) = session.run(None, {"x": x})
    np.testing.assert_allclose(same, want, atol=1e-4)
    (got,) = tvm_sparse.compile(path, fallback="off").run({"x": x}).values()
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize(
    "nodes",
    [
        masked(order=[1, 1, 2, 3, 4]),
        masked(activations=["Relu"] * 4 + ["Tanh"]),
        masked(squared=3),
        sent(order=[2, 1, 2, 3, 4]),
    ],
    ids=[
        "a share of two experts",
        "another activation",
        "a share twice",
        "an expert with others' tokens",
    ],
)
def test_what_only_resembles_a_mixture_stays(tmp_path, nodes):
    x = np.random.default_rng(5).standard_normal((TOKENS, HIDDEN)).astype("float32")
    tensors = constants(first=np.array(0))
    path = write(tmp_path / "m.onnx", nodes, {"x": x}, TensorProto.FLOAT, tensors, opset=18)
    before = onnx.load(path)
    assert rewritten(path) == before


def test_results_that_are_read_elsewhere_are_still_computed(tmp_path):
    nodes = masked()
    nodes[-1] = make_node("Add", ["sum4", "out2"], ["y"])
    x = np.random.default_rng(5).standard_normal((TOKENS, HIDDEN)).astype("float32")
    path = write(tmp_path / "m.onnx", nodes, {"x": x}, TensorProto.FLOAT, constants(), opset=18)
    (want,) = onnxruntime_outputs(path, {"x": x}).values()
    (got,) = tvm_sparse.compile(path, fallback="off").run({"x": x}).values()
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_weights_in_another_file(tmp_path):
    x = np.random.default_rng(5).standard_normal((TOKENS, HIDDEN)).astype("float32")
    path = write(tmp_path / "m.onnx", masked(), {"x": x}, TensorProto.FLOAT, constants(), opset=18)
    (want,) = onnxruntime_outputs(path, {"x": x}).values()
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=64)
    assert len([n for n in rewritten(path).graph.node if n.op_type == "MatMul"]) == 3
    (got,) = tvm_sparse.compile(path, fallback="off").run({"x": x}).values()
    np.testing.assert_allclose(got, want, atol=1e-4)

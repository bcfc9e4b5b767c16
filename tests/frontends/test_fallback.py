"""Groups of nodes for ONNX Runtime: convex, maximal, and with all that they read.

The file is long because grouping, the models of the groups and their types are tested with the same
small graphs.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.convex_groups import between, convex_groups, order_of_groups
from tvm_sparse.frontends.fallback import DOMAIN, SUBMODEL, partition
from tvm_sparse.frontends.nodes import reads
from tvm_sparse.frontends.value_types import value_types


def has_cycle(successors, groups):
    unit = {node: group[0] for group in groups for node in group}
    edges = {
        (unit.get(node, node), unit.get(reader, reader))
        for node, readers in enumerate(successors)
        for reader in readers
    }
    edges = {(a, b) for a, b in edges if a != b}
    left = {a for edge in edges for a in edge}
    while left:
        sources = left - {b for a, b in edges if a in left}
        if not sources:
            return True
        left -= sources
    return False


@st.composite
def graphs(draw):
    size = draw(st.integers(1, 14))
    successors = [
        sorted(draw(st.sets(st.integers(node + 1, size - 1), max_size=3)))
        if node + 1 < size
        else []
        for node in range(size)
    ]
    return successors, draw(st.sets(st.integers(0, size - 1)))


class TestGroups:
    @settings(deadline=None, max_examples=300)
    @given(graphs())
    def test_of_random_graphs(self, drawn):
        successors, chosen = drawn
        groups = convex_groups(successors, chosen)
        assert sorted(node for group in groups for node in group) == sorted(chosen)
        assert not has_cycle(successors, groups)
        for first in groups:
            for second in groups:
                neighbours = any(reader in second for node in first for reader in successors[node])
                if first is not second and neighbours:
                    others = [group for group in groups if group not in (first, second)]
                    assert has_cycle(successors, [*others, sorted(first + second)])

    @settings(deadline=None)
    @given(graphs())
    def test_order_of_random_graphs(self, drawn):
        successors, chosen = drawn
        groups = convex_groups(successors, chosen)
        order = order_of_groups(successors, groups)
        place = {node: position for position, unit in enumerate(order) for node in unit}
        assert sorted(place) == list(range(len(successors)))
        assert [unit for unit in sorted(order) if unit in groups] == groups
        for node, readers in enumerate(successors):
            for reader in readers:
                assert place[node] <= place[reader]

    def test_a_chain_is_one_group(self):
        assert convex_groups([[1], [2], [3], []], {1, 2, 3}) == [[1, 2, 3]]

    def test_a_node_beside_keeps_two_groups_apart(self):
        # 0 -> 1 -> 2 and 0 -> 2: with 0 and 2 in one group, 1 would be before and behind it.
        assert convex_groups([[1, 2], [2], []], {0, 2}) == [[0], [2]]

    def test_a_long_chain(self):
        size = 3000
        successors = [[node + 1] for node in range(size - 1)] + [[]]
        assert convex_groups(successors, range(size)) == [list(range(size))]

    def test_between(self):
        successors = [[1, 2], [3], [3], [4], []]
        predecessors = [[], [0], [0], [1, 2], [3]]
        assert between(successors, predecessors, 0, 3) == {0, 1, 2, 3}


def a_model(nodes, inputs, outputs, weights=(), opset=17):
    graph = make_graph(
        nodes,
        "test",
        [make_tensor_value_info(name, *of) for name, of in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in dict(weights).items()],
    )
    return make_model(graph, opset_imports=[make_opsetid("", opset)], ir_version=8)


FLOAT = TensorProto.FLOAT
NUMBERS = {"zero": 0, "eight": 8, "ten": 10, "eighteen": 18}


def parts_of(model, chosen, folder):
    """Return the partition in which the nodes of the operators `chosen` fall back."""
    reasons = {
        position: "for the test"
        for position, node in enumerate(model.graph.node)
        if node.op_type in chosen
    }
    return partition(model, folder, value_types(model, folder), reasons)


def run_parts(parts, feeds):
    """Run a partition node by node, all by ONNX Runtime."""
    graph = parts.model.graph
    values = dict(feeds) | {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.domain == DOMAIN:
            content = parts.submodels[node.attribute[0].s.decode()].content
        else:
            inputs = {
                name: (onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype), values[name].shape)
                for name in reads(node)
            }
            alone = a_model([node], inputs, [name for name in node.output if name])
            content = alone.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        given = {value.name: values[value.name] for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        values |= dict(zip(names, session.run(names, given), strict=True))
    return [values[value.name] for value in graph.output]


def check(model, chosen, folder, *arrays):
    """Check that a partition computes what the model computes, and return it."""
    parts = parts_of(model, chosen, folder)
    feeds = dict(zip((value.name for value in model.graph.input), arrays, strict=True))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for actual, expected in zip(run_parts(parts, feeds), session.run(None, feeds), strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)
    return parts


def kinds(parts):
    return [node.op_type for node in parts.model.graph.node]


class TestPartition:
    def test_weights_go_with_the_nodes_that_read_them(self, tmp_path):
        nodes = [
            make_node("Mul", ["x", "a"], ["t"]),
            make_node("Add", ["t", "b"], ["u"], name="sum"),
            make_node("Sub", ["u", "a"], ["y"]),
        ]
        weights = {"a": np.float32([1, 2]), "b": np.float32([3, 4])}
        model = a_model(nodes, {"x": (FLOAT, [3, 2])}, ["y"], weights)
        parts = check(model, {"Add"}, tmp_path, np.ones((3, 2), "float32"))
        assert kinds(parts) == ["Mul", SUBMODEL, "Sub"]
        assert [tensor.name for tensor in parts.model.graph.initializer] == ["a"]
        assert [fallback.nodes for fallback in parts.fallbacks] == [("sum",)]
        assert list(parts.model.graph.node[1].input) == ["t"]

    def test_weights_in_a_file(self, tmp_path):
        weights = {"a": np.arange(2000, dtype="float32")}
        model = a_model(
            [make_node("Add", ["x", "a"], ["y"])], {"x": (FLOAT, [2000])}, ["y"], weights
        )
        path = tmp_path / "a.onnx"
        onnx.save(model, path, save_as_external_data=True, location="a.data", size_threshold=0)
        model = onnx.load(path, load_external_data=False)
        parts = parts_of(model, {"Add"}, tmp_path)
        (y,) = run_parts(parts, {"x": np.ones(2000, "float32")})
        np.testing.assert_array_equal(y, weights["a"] + 1)

    def test_several_outputs_and_a_missing_operand(self, tmp_path):
        nodes = [
            make_node("Clip", ["x", "", "most"], ["c"]),
            make_node("Split", ["c"], ["p", "q"], axis=0),
            make_node("Neg", ["p"], ["y"]),
        ]
        model = a_model(
            nodes, {"x": (FLOAT, [4, 2])}, ["y", "q"], {"most": np.float32(1)}, opset=13
        )
        x = np.arange(8, dtype="float32").reshape(4, 2)
        assert kinds(check(model, {"Clip", "Split"}, tmp_path, x)) == [SUBMODEL, "Neg"]

    def test_what_an_inner_graph_captures(self, tmp_path):
        then, other = (
            make_graph(
                [make_node(kind, ["t", "w"], ["z"])],
                "b",
                [],
                [make_tensor_value_info("z", FLOAT, [2])],
            )
            for kind in ("Add", "Sub")
        )
        nodes = [
            make_node("Abs", ["x"], ["t"]),
            make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
        ]
        inputs = {"x": (FLOAT, [2]), "c": (TensorProto.BOOL, [])}
        model = a_model(nodes, inputs, ["y"], {"w": np.float32([1, 2])})
        for c in (True, False):
            parts = check(model, {"If"}, tmp_path, np.float32([-1, 2]), np.array(c))
            assert set(parts.model.graph.node[1].input) == {"t", "c"}

    def test_constants_are_in_every_part_that_reads_them(self, tmp_path):
        value = onnx.numpy_helper.from_array(np.float32([1, 2]))
        nodes = [
            make_node("Constant", [], ["k"], value=value),
            make_node("Add", ["x", "k"], ["t"]),
            make_node("Neg", ["t"], ["u"]),
            make_node("Add", ["u", "k"], ["y"]),
        ]
        model = a_model(nodes, {"x": (FLOAT, [2])}, ["y"])
        parts = check(model, {"Add"}, tmp_path, np.float32([5, 7]))
        assert kinds(parts) == [SUBMODEL, "Neg", SUBMODEL]

    def test_readers_of_unknown_shapes_join(self, tmp_path):
        nodes = [
            make_node("NonZero", ["x"], ["where"]),
            make_node("Cast", ["where"], ["w"], to=FLOAT),
            make_node("ReduceSum", ["w"], ["s"], keepdims=0),
            make_node("Add", ["x", "s"], ["y"]),
        ]
        model = a_model(nodes, {"x": (FLOAT, [2, 3])}, ["y"])
        x = np.float32([[0, 1, 2], [3, 0, 0]])
        parts = check(model, {"NonZero"}, tmp_path, x)
        assert kinds(parts) == [SUBMODEL, "Add"]
        assert "only at run time" in parts.fallbacks[1].reason

    def test_what_stands_between_joins_too(self, tmp_path):
        nodes = [
            make_node("NonZero", ["x"], ["where"]),
            make_node("Transpose", ["where"], ["t"]),
            make_node("Abs", ["x"], ["a"]),
            make_node("GatherND", ["a", "t"], ["g"]),
            make_node("ReduceMax", ["g"], ["y"], keepdims=0),
        ]
        model = a_model(nodes, {"x": (FLOAT, [2, 3])}, ["y"])
        parts = check(model, {"NonZero"}, tmp_path, np.float32([[0, 1, 2], [3, 0, 0]]))
        assert sorted(kinds(parts)) == ["Abs", SUBMODEL]

    def test_an_output_of_unknown_shape(self, tmp_path):
        nodes = [make_node("Abs", ["x"], ["a"]), make_node("NonZero", ["a"], ["y"])]
        model = a_model(nodes, {"x": (FLOAT, [2, 3])}, ["y"])
        parts = check(model, {"NonZero"}, tmp_path, np.float32([[0, 1, 2], [3, 0, 0]]))
        (submodel,) = parts.submodels.values()
        assert [spec.shape for spec in submodel.outputs] == [(2, -1)]

    def test_shapes_that_only_a_run_tells(self, tmp_path):
        """The standard does not tell the shape of what a Loop stacks."""
        infos = [
            make_tensor_value_info("i", TensorProto.INT64, []),
            make_tensor_value_info("go", TensorProto.BOOL, []),
            make_tensor_value_info("s", FLOAT, [2]),
        ]
        body = make_graph(
            [
                make_node("Add", ["s", "s"], ["s2"]),
                make_node("Identity", ["go"], ["go2"]),
                make_node("Identity", ["s2"], ["row"]),
            ],
            "body",
            infos,
            [
                make_tensor_value_info("go2", TensorProto.BOOL, []),
                make_tensor_value_info("s2", FLOAT, [2]),
                make_tensor_value_info("row", FLOAT, [2]),
            ],
        )
        nodes = [
            make_node("Loop", ["n", "", "x"], ["last", "rows"], body=body),
            make_node("Abs", ["rows"], ["y"]),
        ]
        model = a_model(nodes, {"x": (FLOAT, [2])}, ["y"], {"n": np.int64(4)})
        parts = check(model, {"Loop"}, tmp_path, np.float32([1, -2]))
        assert kinds(parts) == [SUBMODEL, "Abs"]
        (submodel,) = parts.submodels.values()
        assert [spec.shape for spec in submodel.outputs] == [(4, 2)]

    def test_shapes_that_most_inputs_share(self, tmp_path):
        """Small or equal numbers, or those in a row, never have two ends of 11 to 17 together."""
        nodes = [
            make_node("Gather", ["x", "backwards"], ["r"]),
            make_node("Add", ["x", "r"], ["sums"]),
            make_node("Sub", ["sums", "ten"], ["above"]),
            make_node("Sub", ["eighteen", "sums"], ["below"]),
            make_node("Mul", ["above", "below"], ["between"]),
            make_node("Greater", ["between", "zero"], ["is_between"]),
            make_node("Cast", ["is_between"], ["ones"], to=TensorProto.INT64),
            make_node("ReduceSum", ["ones"], ["count"]),
            make_node("Sub", ["eight", "count"], ["rest"]),
            make_node("Concat", ["count", "rest"], ["sizes"], axis=0),
            make_node("Split", ["x", "sizes"], ["z", "most"]),
            make_node("Abs", ["most"], ["y"]),
        ]
        weights = {
            "backwards": np.arange(7, -1, -1),
            **{name: np.array([n]) for name, n in NUMBERS.items()},
        }
        model = a_model(nodes, {"x": (TensorProto.INT64, [8])}, ["y"], weights)
        parts = check(model, {"Split"}, tmp_path, np.array([6, 1, 2, 3, 4, 5, 6, 7]))
        assert kinds(parts)[-1] == SUBMODEL

    def test_sequences_stay_inside(self, tmp_path):
        nodes = [
            make_node("SplitToSequence", ["x"], ["s"], axis=0),
            make_node("SequenceAt", ["s", "one"], ["t"]),
            make_node("Neg", ["t"], ["y"]),
        ]
        model = a_model(nodes, {"x": (FLOAT, [2, 3])}, ["y"], {"one": np.int64(1)})
        x = np.arange(6, dtype="float32").reshape(2, 3)
        parts = check(model, {"SplitToSequence"}, tmp_path, x)
        assert kinds(parts) == [SUBMODEL, "Neg"]

    def test_a_sequence_as_output(self, tmp_path):
        nodes = [make_node("SplitToSequence", ["x"], ["parts"], axis=0)]
        model = a_model(nodes, {"x": (FLOAT, [2, 3])}, ["parts"])
        with pytest.raises(ModelError, match=r"'parts' is a seq\(tensor\(float\)\)"):
            parts_of(model, {"SplitToSequence"}, tmp_path)

    def test_strings_stay_inside(self, tmp_path):
        words = np.array(["a", "b"], object)
        nodes = [
            make_node("Gather", ["words", "i"], ["word"]),
            make_node("Equal", ["word", "letter"], ["is_a"]),
            make_node("Not", ["is_a"], ["y"]),
        ]
        weights = {"words": words, "letter": np.array("a", object)}
        model = a_model(nodes, {"i": (TensorProto.INT64, [3])}, ["y"], weights, opset=19)
        parts = check(model, {"Equal"}, tmp_path, np.array([0, 1, 0]))
        assert kinds(parts) == [SUBMODEL, "Not"]

    def test_the_whole_model(self, tmp_path):
        nodes = [make_node("Abs", ["x"], ["a"]), make_node("Neg", ["a"], ["y"])]
        model = a_model(nodes, {"x": (FLOAT, [2, 3])}, ["y", "a"])
        parts = check(model, {"Abs", "Neg"}, tmp_path, np.ones((2, 3), "float32"))
        assert kinds(parts) == [SUBMODEL]

    def test_nothing_reads_the_part(self, tmp_path):
        nodes = [make_node("Abs", ["x"], ["a"]), make_node("Neg", ["x"], ["y"])]
        model = a_model(nodes, {"x": (FLOAT, [2, 3])}, ["y"])
        assert kinds(check(model, {"Abs"}, tmp_path, np.ones((2, 3), "float32"))) == ["Neg"]

    @settings(deadline=None, max_examples=40)
    @given(st.data())
    def test_random_models(self, tmp_path_factory, data):
        names, nodes = ["x"], []
        for position in range(data.draw(st.integers(1, 10))):
            kind = data.draw(st.sampled_from(["Abs", "Neg", "Add", "Max"]))
            arity = 1 if kind in ("Abs", "Neg") else 2
            read = [data.draw(st.sampled_from(names)) for _ in range(arity)]
            names.append(f"t{position}")
            nodes.append(make_node(kind, read, names[-1:]))
        outputs = data.draw(st.lists(st.sampled_from(names[1:]), min_size=1, unique=True))
        chosen = data.draw(st.sets(st.sampled_from(["Abs", "Neg", "Add", "Max"]), min_size=1))
        model = a_model(nodes, {"x": (FLOAT, [3])}, outputs)
        parts = check(model, chosen, tmp_path_factory.getbasetemp(), np.float32([-1, 0, 2]))
        assert not chosen.intersection(kinds(parts))

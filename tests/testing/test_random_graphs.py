"""Random graphs: a hundred are right, and the program that finds wrong ones finds them."""

import dataclasses

import numpy as np
import onnx
import pytest

from tvm_sparse.testing.random_graphs import check, images, quantized, reductions
from tvm_sparse.testing.random_graphs.case import Case, Options, random_case
from tvm_sparse.testing.random_graphs.graph import Graph, to_model
from tvm_sparse.testing.random_graphs.run_nodes import Unfit, run_nodes
from tvm_sparse.testing.random_graphs.shrink import shrink

COUNT, NODES = 100, 8
MOST_REFUSED = 5
WITH_A_MEAN = ("Layer", "Instance", "Group", "MeanVariance")


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, COUNT, 10))
def test_graphs_are_right(first):
    """CONTRIBUTING.md has the command that shrinks a graph that fails: with ``--nodes 8``."""
    outcomes = {seed: check.outcome(random_case(seed, NODES)) for seed in range(first, first + 10)}
    wrong = {
        seed: found
        for seed, found in outcomes.items()
        if found.split(":")[0] not in (check.RIGHT, check.REFUSED)
    }
    assert not wrong
    assert list(outcomes.values()).count(check.RIGHT) > 10 - MOST_REFUSED


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 20, 5))
def test_graphs_of_quantized_operators_are_right(first):
    """The command that shrinks a graph also has the option ``--integers``."""
    for seed in range(first, first + 5):
        assert check.outcome(random_case(seed, NODES, integers=True)) == check.RIGHT, seed


def test_graphs_of_quantized_operators_are_of_many_kinds():
    cases = [random_case(seed, integers=True) for seed in range(60)]
    kinds = {node.op_type for case in cases for node in case.model.graph.node}
    assert {"QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "ConvInteger"} < kinds
    assert {"QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearConcat"} < kinds
    assert {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "QLinearAveragePool"} < kinds
    assert any(case.options.forces_integers for case in cases)


def test_a_seed_gives_one_graph():
    one, other = (random_case(7) for _ in range(2))
    assert one.model == other.model
    assert one.options == other.options
    assert all(np.array_equal(array, other.inputs[name]) for name, array in one.inputs.items())
    assert random_case(8).model != one.model


def test_graphs_are_of_many_kinds():
    cases = [random_case(seed) for seed in range(60)]
    kinds = {node.op_type for case in cases for node in case.model.graph.node}
    assert {"Conv", "MatMul", "Softmax", "Concat", "Split", "Resize"} < kinds
    assert {"BatchNormalization", "QuantizeLinear"} < kinds
    assert len(kinds) > 50
    assert {case.options.columns for case in cases} > {"auto", "off"}
    for case in cases:
        onnx.checker.check_model(case.model, full_check=True)


def test_what_does_not_fit_leaves_no_trace():
    graph = Graph(0, opset=17)
    x = graph.input(graph.normal([2, 3]))
    with graph.attempt():
        graph.publish([graph.add("Relu", x)])
    before = list(graph.nodes), dict(graph.weights), list(graph.pool)
    with graph.attempt():
        graph.add("Add", x, graph.normal([3]))
        graph.add("MatMul", x, graph.normal([5, 5]))
    assert (list(graph.nodes), dict(graph.weights), list(graph.pool)) == before
    with pytest.raises(Unfit, match="not finite"):
        graph.add("Log", graph.add("Sub", x, x))


def test_results_keep_their_spread():
    graph = Graph(0, opset=17)
    x = graph.input(graph.normal([50, 20]))
    for name in (graph.add("Mul", x, np.float32(1e-3)), graph.add("Add", x, np.float32(1e3))):
        array = graph.values[graph.settled(name)]
        assert 0.5 < array.std() < 2
        assert abs(array.mean()) < 1


def test_graphs_are_valid_as_a_whole():
    """The rule of pooling may not draw windows that ONNX counts, and ONNX Runtime does not."""
    graph = Graph(0, opset=17)
    graph.input(graph.normal([1, 2, 4, 5]))
    for _ in range(200):
        with graph.attempt():
            graph.publish(images.pool(graph))
    model = to_model(graph, graph.pool[1:])
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert len(model.graph.node) > 50
    for value in inferred.graph.value_info:
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        assert shape == graph.shape(value.name)


@pytest.mark.parametrize("rule", [reductions.layer_norm, reductions.channel_norm])
def test_equal_values_are_not_normalized(rule):
    """What is left of them is the rounding of their mean."""
    graph, drawn = Graph(0, opset=21), set()
    graph.input(np.full([2, 2, 4, 5], 3.7, "float32"))
    for _ in range(50):
        with graph.attempt():
            rule(graph)
            drawn |= {node.op_type for node in graph.nodes}
            raise Unfit("the next one has to read the same values")
    assert drawn
    assert drawn.isdisjoint({"Sub", *(f"{kind}Normalization" for kind in WITH_A_MEAN)})


def test_last_bits_do_not_decide_what_is_rounded():
    graph = Graph(0, opset=17)
    x = graph.input(graph.normal([4, 30]))
    for _ in range(10):
        y = quantized.rounded(graph, x)
        steps = graph.values[y].copy()
        nodes = graph.nodes[-2:]
        feeds = {name: graph.weights[name] for node in nodes for name in node.input[1:]}
        feeds[x] = graph.values[x] * np.float32(1 + 1e-6)
        (disturbed,) = run_nodes(nodes, feeds, [y], graph.opset)
        np.testing.assert_array_equal(disturbed, steps)


def test_wrong_outputs_are_noticed(monkeypatch):
    case = random_case(3)
    assert check.outcome(case) == check.RIGHT
    run = check.tvm_sparse.Engine.run
    factors = iter([1.001] * 2 + [1.0, 1.001])

    def wrong(engine, inputs):
        factor = next(factors)
        return {
            name: (array * factor).astype(array.dtype)
            for name, array in run(engine, inputs).items()
        }

    monkeypatch.setattr(check.tvm_sparse.Engine, "run", wrong)
    assert check.outcome(case).startswith("wrong: output")
    assert check.outcome(case).endswith("is another one in the second run")


def test_errors_are_failures_but_refusals_are_not():
    case = random_case(3)
    options = Options(target="no such target")
    assert check.outcome(dataclasses.replace(case, options=options)).startswith("TargetError: ")
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.graph.node[0].op_type = "NoSuchOperator"
    assert check.outcome(dataclasses.replace(case, model=model)).startswith("refused: ")


def test_a_failure_becomes_small():
    def fails(case):
        kinds = [node.op_type for node in case.model.graph.node]
        return "Softmax" in kinds and case.options.threads == 2

    case = next(case for case in map(random_case, range(100)) if fails(case))
    small = shrink(dataclasses.replace(case, options=Options("haswell", 2, 3)), fails)
    assert [node.op_type for node in small.model.graph.node] == ["Softmax"]
    assert small.options == Options("native", 2, "auto")
    assert list(small.inputs) == [value.name for value in small.model.graph.input]
    onnx.checker.check_model(small.model, full_check=True)


def test_other_outputs_of_a_node_do_not_keep_a_failure_from_being_small():
    graph = Graph(0, opset=17)
    x = graph.input(graph.normal([4, 6]))
    a, b = graph.add_all("Split", x, np.array([2, 2], "int64"), outputs=2, axis=0)
    y = graph.add("Add", graph.add("Relu", a), b)
    case = Case(to_model(graph, [y]), {x: graph.values[x]}, Options())
    small = shrink(case, lambda one: "Split" in [n.op_type for n in one.model.graph.node])
    assert [node.op_type for node in small.model.graph.node] == ["Split"]


def test_a_model_has_only_what_its_outputs_need():
    graph = Graph(0, opset=17)
    x, _ = graph.input(graph.normal([2])), graph.input(graph.normal([3]))
    y = graph.add("Relu", x)
    graph.add("Add", y, graph.normal([2]))
    model = to_model(graph, [y])
    assert [node.op_type for node in model.graph.node] == ["Relu"]
    assert [value.name for value in model.graph.input] == [x]
    assert not model.graph.initializer

"""If: the branches are compiled like the rest, and only the one that an input chooses runs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

import tvm_sparse
from tvm_sparse.cpu.threads import start_pool
from tvm_sparse.runtime.code import runnable
from tvm_sparse.runtime.weights import by_function
from tvm_sparse.testing.models import onnxruntime_outputs, pruned

CHANNELS, PIXELS = 32, 24
SHAPE = 1, CHANNELS, PIXELS, PIXELS


def layers(name, count, source, operator="Conv"):
    """Return nodes of layers with ReLU, their constants, and the name of the result."""
    nodes, tensors = [], []
    for i in range(count):
        weight = pruned(np.random.default_rng(i), (CHANNELS, CHANNELS, 3, 3), 0.1) * 0.26
        tensors.append(numpy_helper.from_array(weight.astype("float32"), f"{name}{i}w"))
        nodes += [
            helper.make_node(
                operator, [source, f"{name}{i}w"], [f"{name}{i}c"], f"{name}{i}", pads=[1] * 4
            ),
            helper.make_node("Relu", [f"{name}{i}c"], [f"{name}{i}r"]),
        ]
        source = f"{name}{i}r"
    return nodes, tensors, source


def branch(name, count, source, *rest):
    nodes, tensors, result = layers(name, count, source)
    nodes, result = [*nodes, *rest], rest[-1].output[0] if rest else result
    output = helper.make_tensor_value_info(result, TensorProto.FLOAT, SHAPE)
    return helper.make_graph(nodes, name, [], [output], tensors)


def model(path, then_branch, else_branch):
    """Write a network whose middle is one of two branches: the first for negative means."""
    stem, tensors, source = layers("stem", 1, "x")
    assert source == "stem0r"
    last, more, result = layers("last", 1, "chosen")
    nodes = [
        *stem,
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Less", ["mean", "zero"], ["is_less"]),
        helper.make_node(
            "If", ["is_less"], ["chosen"], "if", then_branch=then_branch, else_branch=else_branch
        ),
        *last,
    ]
    zero = numpy_helper.from_array(np.float32(0), "zero")
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, SHAPE)],
        [*tensors, *more, zero],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def image(sign):
    x = np.abs(np.random.default_rng(1).standard_normal(SHAPE)).astype("float32")
    return {"x": x * np.float32(sign)}


def calls_of(engine, inputs):
    """Return how often the virtual machine calls each function."""
    start_pool(engine.threads)
    machine = relax.VirtualMachine(runnable(engine.open_code()), tvm.cpu())
    weights = by_function(engine.info.weights, engine._weights)
    called: Counter[str] = Counter()
    machine.set_instrument(lambda _f, name, before, *_: called.update([name] * bool(before)))
    tensors = map(tvm.runtime.tensor, inputs.values())
    machine["main"](*tensors, *weights.get("main", ()))
    return called


@pytest.mark.parametrize("columns", ["auto", "off"])
def test_only_the_chosen_branch_runs(tmp_path, columns):
    path = model(tmp_path / "m.onnx", branch("few", 1, "stem0r"), branch("many", 6, "stem0r"))
    engine = tvm_sparse.compile(path, threads=2, fallback="off", columns=columns)
    kernels = {layer.name: layer.kernel for layer in engine.report.layers}
    assert kernels["many5"] == kernels["few0"] == "sparse_conv2d"
    counts = {}
    for sign in (-1, 1):
        (want,) = onnxruntime_outputs(path, image(sign)).values()
        (got,) = engine.run(image(sign)).values()
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
        called = calls_of(engine, image(sign))
        counts[sign] = sum(n for name, n in called.items() if name.startswith("sparse_conv2d"))
    if columns == "off":  # in regions, a call computes several layers
        assert counts == {-1: 3, 1: 8}


def test_branches_within_branches(tmp_path):
    inner = helper.make_node(
        "If",
        ["is_less"],
        ["inner"],
        "inner",
        then_branch=branch("never", 2, "outer0r"),
        else_branch=branch("always", 1, "outer0r"),
    )
    path = model(
        tmp_path / "m.onnx", branch("few", 1, "stem0r"), branch("outer", 1, "stem0r", inner)
    )
    engine = tvm_sparse.compile(path, threads=2, fallback="off")
    for sign in (-1, 1):
        (want,) = onnxruntime_outputs(path, image(sign)).values()
        (got,) = engine.run(image(sign)).values()
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_large_weights_of_branches_that_fall_back(tmp_path):
    """ONNX Runtime runs an If with weights that importing had moved out of the model."""
    unknown = helper.make_node("Det", ["many5r"], ["determinants"])
    back = helper.make_node("ReduceSum", ["determinants"], ["sum"], keepdims=0)
    tail = helper.make_node("Add", ["many5r", "sum"], ["odd"])
    path = model(
        tmp_path / "m.onnx",
        branch("few", 1, "stem0r"),
        branch("many", 6, "stem0r", unknown, back, tail),
    )
    engine = tvm_sparse.compile(path, threads=2)
    assert [fallback.nodes for fallback in engine.info.fallbacks] == [("if",)]
    for sign in (-1, 1):
        (want,) = onnxruntime_outputs(path, image(sign)).values()
        (got,) = engine.run(image(sign)).values()
        np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())

"""Parts of a model that ONNX Runtime cannot load as it does by default."""

import logging

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_graph, make_node, make_tensor_value_info

import tvm_sparse
from tvm_sparse.frontends import submodel
from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.testing import models


def branch(name, *nodes):
    """Return a graph whose output is that of its last node."""
    output = make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    return make_graph(nodes, name, [], [output])


def choice(condition, output, then, otherwise):
    """Return an If between two graphs."""
    return make_node("If", [condition], [output], then_branch=then, else_branch=otherwise)


def unoptimizable(path):
    """Write an If whose branch chooses, by a rank, between LSTMs of inputs of rank 4 and 3.

    Once ONNX Runtime's optimizers know the rank, the LSTM that is never run has an input of
    rank 4, and they refuse it. PyTorch writes ``if x.dim() == 2`` in this way.
    """
    narrow = branch("narrow", make_node("Squeeze", ["x", "last"], ["squeezed"]))
    same = branch("same", make_node("Identity", ["x"], ["unchanged"]))
    batched = branch(
        "batched",
        make_node("Unsqueeze", ["features", "last"], ["wide"]),
        make_node("LSTM", ["wide", "w", "r"], ["of_wide"], hidden_size=3),
    )
    plain = branch("plain", make_node("LSTM", ["features", "w", "r"], ["h1"], hidden_size=3))
    network = branch(
        "network",
        make_node("Shape", ["x"], ["shape"]),
        make_node("Gather", ["shape", "last"], ["size"]),
        make_node("Equal", ["size", "one"], ["is_one"]),
        choice("is_one", "features", narrow, same),
        make_node("Shape", ["features"], ["features_shape"]),
        make_node("Size", ["features_shape"], ["rank"]),
        make_node("Equal", ["rank", "two"], ["is_two"]),
        choice("is_two", "h", batched, plain),
    )
    nothing = branch("nothing", make_node("Identity", ["zeros"], ["none"]))
    nodes = [
        make_node("Greater", ["sum", "zero"], ["is_on"]),
        choice("is_on", "y", network, nothing),
    ]
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((1, 12, 4)).astype("float32"),
        "r": rng.standard_normal((1, 12, 3)).astype("float32"),
        "zeros": np.zeros((5, 1, 2, 3), "float32"),
        "zero": np.zeros((), "float32"),
        "last": np.array([3]),
        "one": np.array([1]),
        "two": np.array(2),
    }
    models.write_onnx(path, nodes, {"sum": [1], "x": [5, 2, 4, 1]}, ["y"], weights, opset=16)
    return path


@pytest.mark.parametrize("can_be_open", [True, False])
def test_a_part_that_cannot_be_optimized_runs_as_it_is(tmp_path, caplog, monkeypatch, can_be_open):
    path = unoptimizable(tmp_path / "m.onnx")
    with pytest.raises(Exception, match="rank 3"):
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    if not can_be_open:
        monkeypatch.setattr(submodel, "optimizable", lambda part: part)
    engine = tvm_sparse.compile(path)
    x = np.random.default_rng(1).standard_normal((5, 2, 4, 1)).astype("float32")
    with caplog.at_level(logging.WARNING, "tvm_sparse"):
        for total in (1, -1):
            inputs = {"sum": np.array([total], "float32"), "x": x}
            expected = models.onnxruntime_outputs(path, inputs)
            np.testing.assert_allclose(engine.run(inputs)["y"], expected["y"], rtol=1e-5, atol=1e-6)
    if engine.info.fallbacks:
        assert ("without optimizations, since it says" in caplog.text) == (not can_be_open)


def test_an_engine_of_a_comparison_runs_what_cannot_be_optimized(tmp_path):
    from tvm_sparse.bench.peer_worker import open_onnxruntime

    path = unoptimizable(tmp_path / "m.onnx")
    engine = open_onnxruntime(str(path), 1)
    assert engine.note.startswith("without optimizations")
    inputs = {"sum": np.ones(1, "float32"), "x": np.ones((5, 2, 4, 1), "float32")}
    (actual,) = engine.run(inputs)
    np.testing.assert_array_equal(actual, models.onnxruntime_outputs(path, inputs)["y"])

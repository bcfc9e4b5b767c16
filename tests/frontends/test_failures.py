"""Nodes at which a pass, TVM or LLVM fails: ONNX Runtime runs them, or an error names them.

A failure is played: the passes on a module fail if it has a certain operator.
"""

import logging

import numpy as np
import pytest
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.errors import CompilationError, ModelError
from tvm_sparse.frontends.load import import_module
from tvm_sparse.passes import pipeline
from tvm_sparse.testing.models import onnxruntime_outputs, write_onnx

X = {"x": [2, 6, 16]}
NODES = [
    make_node("MatMul", ["x", "w"], ["a"], name="/up"),
    make_node("Tan", ["a"], ["b"], name="/tan"),
    make_node("Relu", ["b"], ["c"], name="/relu"),
    make_node("Atan", ["c"], ["d"], name="/atan"),
    make_node("Tan", ["d"], ["e"], name="/tan2"),
    make_node("Add", ["e", "b"], ["f"], name="/add"),
    make_node("Tan", ["f"], ["y"], name="/tan3"),
]


@pytest.fixture
def path(tmp_path):
    weights = {"w": np.random.default_rng(0).uniform(-0.1, 0.1, (16, 16)).astype("float32")}
    return write_onnx(tmp_path / "m.onnx", NODES, X, ["y"], weights)


@pytest.fixture
def failing(monkeypatch):
    """Return a function after which modules with the given operators cannot be built."""
    build = pipeline.front

    def fail_at(*operators):
        def fails(mod, *arguments):
            script = mod.script()
            for operator in operators:
                if f"R.{operator}(" in script:
                    raise ValueError(f"no kernel of {operator}\nfor this target")
            return build(mod, *arguments)

        monkeypatch.setattr(pipeline, "front", fails)

    return fail_at


def check(path, engine):
    x = np.random.default_rng(1).standard_normal((2, 6, 16)).astype("float32")
    expected = onnxruntime_outputs(path, {"x": x})["y"]
    np.testing.assert_allclose(engine.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.expects_report
def test_onnxruntime_runs_the_node(path, failing, caplog):
    failing("atan")
    with caplog.at_level(logging.WARNING, "tvm_sparse"):
        engine = tvm_sparse.compile(path)
    (found,) = engine.info.fallbacks
    assert (found.nodes, found.operator) == (("/atan",), "Atan")
    assert found.reason == "compiling it failed: no kernel of atan"
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith("node '/atan' (Atan) cannot be compiled: no kernel of atan")
    assert "please report it" in warning and "ONNX Runtime runs the node instead" in warning
    check(path, engine)


@pytest.mark.expects_report
def test_after_a_second_failure_all_nodes_of_the_operator_fall_back(path, failing):
    failing("tan", "atan")
    engine = tvm_sparse.compile(path)
    nodes = {found.operator: found.nodes for found in engine.info.fallbacks}
    assert nodes == {"Tan": ("/tan", "/tan2", "/tan3"), "Atan": ("/atan",)}
    check(path, engine)


@pytest.mark.parametrize("options", [{"fallback": "off"}, {"target": "rpi4"}])
def test_without_fallback_the_error_names_the_node(path, failing, options):
    failing("atan")
    with pytest.raises(ModelError, match=r"^node '/atan' \(Atan\) cannot be compiled: no kernel"):
        tvm_sparse.compile(path, **options)


def test_a_strict_compilation_finds_the_node_too(path, failing):
    failing("atan")
    with pytest.raises(ModelError, match="'/atan'"):
        tvm_sparse.compile(path, strict=True, fallback="off")


def test_a_failure_of_no_node_is_passed_on(path, monkeypatch):
    parts = []

    def fails(mod, *_):
        parts.append(mod)
        if len(parts) == 1:
            raise RuntimeError("disk full")
        return build(mod, *_)

    build = pipeline.front
    monkeypatch.setattr(pipeline, "front", fails)
    with pytest.raises(CompilationError, match="disk full"):
        tvm_sparse.compile(path)


def test_want_of_memory_is_no_failure_of_a_node(path, monkeypatch):
    def fails(mod, *_):
        raise MemoryError

    monkeypatch.setattr(pipeline, "front", fails)
    with pytest.raises(CompilationError, match="not enough memory"):
        tvm_sparse.compile(path)


def test_a_relax_module_has_no_nodes(path, failing):
    failing("atan")
    with pytest.raises(CompilationError, match="no kernel of atan"):
        tvm_sparse.compile(import_module(path).mod)

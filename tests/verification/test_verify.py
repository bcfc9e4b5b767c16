"""Verification names the node because of which an output differs from ONNX Runtime's.

What a compiler gets wrong is played by changing the operator of a node before it is compiled.
"""

import logging

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper

import tvm_sparse
from tvm_sparse import compiler
from tvm_sparse.errors import InputError, VerificationError
from tvm_sparse.frontends.graph_importer import GraphImporter
from tvm_sparse.testing.models import pruned, write_mlp, write_onnx
from tvm_sparse.verification import verify

X = {"x": [2, 6, 16]}


def node(operator, inputs, output, name, **attributes):
    return helper.make_node(operator, inputs.split(), [output], name=name, **attributes)


CHAIN = [
    node("MatMul", "x w", "h", "/up"),
    node("Relu", "h", "r", "/relu"),
    node("MatMul", "r v", "d", "/down"),
    node("Sigmoid", "d", "s", "/gate"),
    node("Add", "s x", "y", "/add"),
]
BRANCHES = [
    node("MatMul", "x w", "a", "/left"),
    node("Relu", "a", "a1", "/left/relu"),
    node("MatMul", "a1 v", "a2", "/left/down"),
    node("MatMul", "x w", "b", "/right"),
    node("Tanh", "b", "b1", "/right/tanh"),
    node("MatMul", "b1 v", "b2", "/right/down"),
    node("Mul", "a2 b2", "y", "/join"),
]


GATE = [node("Sigmoid", "r", "y", "/gate")]


def write(path, nodes, output="y"):
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((16, 32)).astype("float32"),
        "v": rng.standard_normal((32, 16)).astype("float32"),
    }
    return write_onnx(path, nodes, X, [output], weights)


def miscompiler(name, operator, tmp_path, compiled=None):
    """Return a function that compiles another operator than that of the node `name`."""

    def compile_part(path):
        model = onnx.load(path)
        for part in model.graph.node:
            if part.name == name:
                part.op_type = operator
        onnx.save(model, tmp_path / "wrong.onnx")
        if compiled is not None:
            compiled.append(path)
        return tvm_sparse.compile(tmp_path / "wrong.onnx", threads=1)

    return compile_part


@pytest.mark.parametrize(
    ("nodes", "name", "operator"),
    [
        (CHAIN, "/relu", "Abs"),
        (CHAIN, "/gate", "Tanh"),
        (CHAIN, "/add", "Sub"),
        (BRANCHES, "/left/relu", "Abs"),
        (BRANCHES, "/right/tanh", "Sigmoid"),
        (BRANCHES, "/join", "Add"),
    ],
)
def test_the_node_that_differs_is_named(tmp_path, nodes, name, operator):
    path = write(tmp_path / "m.onnx", nodes)
    compile_part = miscompiler(name, operator, tmp_path)
    right = next(part.op_type for part in nodes if part.name == name)
    message = rf"output 'y' differs .* first node that differs is '{name}' \({right}\)"
    with pytest.raises(VerificationError, match=message):
        compiler.verify_engine(path, compile_part(path), compile_part=compile_part)


@pytest.mark.expects_report
@pytest.mark.parametrize("fallback", ["onnxruntime", "off"])
def test_onnxruntime_runs_the_node_that_differs(tmp_path, monkeypatch, caplog, fallback):
    path = write(tmp_path / "m.onnx", CHAIN)

    def wrong(_converter, op, *arguments):
        return right(_converter, "Tanh" if op == "Sigmoid" else op, *arguments)

    right = GraphImporter._convert_operator
    monkeypatch.setattr(GraphImporter, "_convert_operator", wrong)
    if fallback == "off":
        with pytest.raises(VerificationError, match="'/gate'"):
            tvm_sparse.compile(path, verify=True, fallback=fallback)
        return
    with caplog.at_level(logging.WARNING, "tvm_sparse"):
        engine = tvm_sparse.compile(path, verify=True)
    assert [found.nodes for found in engine.info.fallbacks] == [("/gate",)]
    (warning,) = (r.getMessage() for r in caplog.records if "report" in r.getMessage())
    assert "'/gate' (Sigmoid)" in warning and "ONNX Runtime runs the node instead" in warning


def test_parts_do_not_repeat_warnings(tmp_path, caplog):
    weight = pruned(np.random.default_rng(0), (64, 16, 3, 3), 0.1)
    mix = node("Conv", "x p", "a", "/mix", group=2)
    nodes = [mix, node("Relu", "a", "r", "/relu"), *GATE]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, 32, 8, 8]}, ["y"], {"p": weight})
    compile_part = miscompiler("/gate", "Tanh", tmp_path)
    with caplog.at_level(logging.WARNING, "tvm_sparse"):
        engine = compile_part(path)
        said = len(caplog.records)
        with pytest.raises(VerificationError, match="'/gate'"):
            compiler.verify_engine(path, engine, compile_part=compile_part)
    assert len(caplog.records) == said == 1


def test_few_parts_are_compiled(tmp_path):
    nodes = [node("Sin", f"t{i}" if i else "x", f"t{i + 1}", f"/{i}") for i in range(60)]
    path = write(tmp_path / "m.onnx", nodes, "t60")
    compiled = []
    compile_part = miscompiler("/17", "Cos", tmp_path, compiled)
    with pytest.raises(VerificationError, match="'/17'"):
        compiler.verify_engine(path, compile_part(path), compile_part=compile_part)
    assert len(compiled) < 12


def test_weights_in_another_file(tmp_path):
    path = write(tmp_path / "m.onnx", CHAIN)
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0)
    assert tvm_sparse.compile(path, verify=True)
    compile_part = miscompiler("/gate", "Tanh", tmp_path)
    with pytest.raises(VerificationError, match="'/gate'"):
        compiler.verify_engine(path, compile_part(path), compile_part=compile_part)


@pytest.mark.parametrize("nodes", [CHAIN, BRANCHES], ids=["chain", "branches"])
def test_right_models_pass(tmp_path, nodes):
    path = write(tmp_path / "m.onnx", nodes)
    engine = tvm_sparse.compile(path, verify=True)
    verification = compiler.verify_engine(path, engine)
    (found,) = verification.differences
    assert found.output == "y" and found.share < 1e-5
    assert "verified against ONNX Runtime" in str(verification)


def test_given_inputs(tmp_path):
    path = write(tmp_path / "m.onnx", CHAIN)
    engine = tvm_sparse.compile(path)
    x = np.ones((2, 6, 16), "float32")
    assert compiler.verify_engine(path, engine, {"x": x}).differences
    with pytest.raises(InputError, match="shape"):
        compiler.verify_engine(path, engine, {"x": x[:1]})
    with pytest.raises(InputError, match="missing input 'x'"):
        compiler.verify_engine(path, engine, {})


def test_a_loaded_library(tmp_path):
    path = write_mlp(tmp_path / "mlp.onnx")
    tvm_sparse.compile(path, {"x": (1, 3, 32)}).save(tmp_path / "mlp.so")
    assert compiler.verify_engine(path, tvm_sparse.load(tmp_path / "mlp.so")).differences


def test_relax_modules_cannot_be_verified():
    with pytest.raises(InputError, match="verify"):
        tvm_sparse.compile(tvm.IRModule(), verify=True)


def test_what_is_not_exact_enough_in_float16_becomes_float32(caplog):
    def attempt(distrusted, precision):
        if precision != "float32":
            raise VerificationError("output 'y' differs", is_rounding=True)
        return precision, distrusted

    with caplog.at_level(logging.WARNING, "tvm_sparse"):
        assert verify.until_right(attempt, True, "auto") == ("float32", {})
    assert caplog.messages == ["output 'y' differs. It is compiled in float32 now"]
    with pytest.raises(VerificationError, match="differs"):
        verify.until_right(attempt, True, "float16")

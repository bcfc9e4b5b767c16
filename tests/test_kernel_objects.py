"""Compiled kernels are kept on disk; a cache changes how long compiling takes, and nothing else."""

import numpy as np
import pytest
import tvm
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse import kernel_objects
from tvm_sparse.cli.main import main
from tvm_sparse.files import CACHE_VARIABLE
from tvm_sparse.runtime import linking
from tvm_sparse.testing.models import write_onnx

X = np.linspace(-1, 1, 4 * 8, dtype="float32").reshape(4, 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    weights = {"w": np.linspace(-1, 1, 8 * 6, dtype="float32").reshape(8, 6)}
    nodes = [make_node("MatMul", ["x", "w"], ["h"]), make_node("Tanh", ["h"], ["y"])]
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    return write_onnx(path, nodes, {"x": [4, 8]}, ["y"], weights)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def builds(monkeypatch):
    """The modules that TVM compiles."""
    made, compiled = [], kernel_objects.compiled

    def counted(part, *others):
        made.append(part)
        return compiled(part, *others)

    monkeypatch.setattr(kernel_objects, "compiled", counted)
    return made


def test_kernels_of_the_same_model_are_compiled_once(model, folder, builds, tmp_path):
    first = tvm_sparse.compile(model, threads=1)
    parts = len(builds)
    assert parts == len(list(folder.iterdir())) > 0
    second = tvm_sparse.compile(model, threads=1)
    assert len(builds) == parts
    expected = tvm_sparse.compile(model, threads=1, kernel_cache=False).run([X])["y"]
    assert len(builds) == 2 * parts
    for engine in (first, second):
        np.testing.assert_array_equal(engine.run([X])["y"], expected)
        engine.save(tmp_path / "model.so")
        np.testing.assert_array_equal(
            tvm_sparse.load(tmp_path / "model.so").run([X])["y"], expected
        )
    np.testing.assert_allclose(expected, np.tanh(X @ np.linspace(-1, 1, 48).reshape(8, 6)), 1e-4)


def test_a_damaged_kernel_is_compiled_again(model, folder, builds):
    expected = tvm_sparse.compile(model, threads=1).run([X])["y"]
    parts = len(builds)
    kept = next(folder.iterdir())
    kept.write_bytes(kept.read_bytes()[:-100])
    np.testing.assert_array_equal(tvm_sparse.compile(model, threads=1).run([X])["y"], expected)
    assert len(builds) == parts + 1


def test_all_that_decides_the_code_decides_the_key(model, folder, builds, monkeypatch):
    parts = []

    def compiled(**options):
        parts.append(-len(builds))
        tvm_sparse.compile(model, threads=1, **options)
        parts[-1] += len(builds)

    compiled()
    compiled(target="x86-64-v3")
    with tvm.transform.PassContext(config={"tirx.disable_vectorize": True}):
        compiled()
    with tvm.transform.PassContext(disabled_pass=["tirx.UnrollLoop"]):
        compiled()
    monkeypatch.setattr(kernel_objects, "_compiler", lambda: ["another TVM"])
    compiled()
    assert len(builds) == len(list(folder.iterdir())) == sum(parts)
    assert min(parts) > 0


def test_the_command_line_keeps_nothing_if_asked(model, folder, tmp_path, capsys):
    command = ["compile", str(model), "-o", str(tmp_path / "model.so"), "--no-verify"]
    main([*command, "--no-cache"])
    assert not folder.exists()
    main(command)
    assert list(folder.iterdir())
    assert "cache" not in capsys.readouterr().err


def test_without_a_linker_a_model_still_runs(model, folder, monkeypatch):
    monkeypatch.setattr(linking.cc, "get_cc", lambda: None)
    monkeypatch.setattr(linking.importlib.util, "find_spec", lambda _name: None)
    result = tvm_sparse.compile(model, threads=1).run([X])["y"]
    assert result.shape == (4, 6) and not folder.exists()

"""A tiny model, its library, and calls of the command line."""

import subprocess
import sys

import numpy as np
import pytest

from tvm_sparse.cli import main
from tvm_sparse.testing.models import write_mlp

SHAPE = ["--shape", "x=1,20,32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def model(folder):
    return write_mlp(folder / "mlp.onnx")


@pytest.fixture(scope="module")
def library(model, folder):
    assert main.main(["compile", str(model), *SHAPE, "-o", str(folder / "mlp.so")]) == 0
    return folder / "mlp.so"


@pytest.fixture
def without_compiler():
    """Run a verb in a fresh process that must not import TVM's compiler; returns its stdout."""
    program = (
        "import sys\n"
        "from tvm_sparse.cli import main\n"
        "assert main.main(sys.argv[1:]) == 0\n"
        "assert 'tvm' not in sys.modules, 'the compiler is imported'\n"
    )

    def run(*arguments):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture
def x(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((1, 20, 32), "float32"))
    return tmp_path / "x.npy"


@pytest.fixture
def call(capfd, tmp_path, monkeypatch):
    """Call the command line in an empty folder; returns status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main.main([str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def fails(call):
    """Call the command line, expect one line on stderr and status 2, return the line."""

    def run(*arguments):
        status, out, err = call(*arguments)
        assert status == 2
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return run

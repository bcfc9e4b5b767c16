"""A tiny model, its library, and calls of the command line."""

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

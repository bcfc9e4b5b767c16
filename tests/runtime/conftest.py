"""A tiny model, compiled, saved and loaded; its input and ONNX Runtime's output."""

import numpy as np
import pytest

import tvm_sparse
from tvm_sparse.testing.models import onnxruntime_outputs, write_mlp

SHAPE = (1, 20, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def model(folder):
    return write_mlp(folder / "mlp.onnx")


@pytest.fixture(scope="module")
def compiled(model):
    return tvm_sparse.compile(model, {"x": SHAPE}, threads=2)


@pytest.fixture(scope="module")
def saved(compiled, folder):
    compiled.save(folder / "mlp.so")
    return folder / "mlp.so"


@pytest.fixture(scope="module")
def loaded(saved):
    return tvm_sparse.load(saved, threads=2)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal(SHAPE).astype("float32")


@pytest.fixture
def y(model, x):
    return onnxruntime_outputs(model, {"x": x})["y"]

"""Compiling in another process: the result is the same, and a limit or a crash is one error."""

import logging
import os

import numpy as np
import pytest

import tvm_sparse
from tvm_sparse.errors import InputError, LimitError, ModelError
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.runtime import limited
from tvm_sparse.testing.models import dataflow, onnxruntime_outputs, write_mlp


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_mlp(tmp_path_factory.mktemp("apart") / "mlp.onnx", density=0.5)


def test_the_engine_is_as_of_this_process(model, tmp_path, caplog):
    options = {"shapes": {"x": (1, 8, 32)}, "records": RecordedPlans(), "threads": 1}
    with caplog.at_level(logging.WARNING, "tvm_sparse"):
        apart = tvm_sparse.compile(model, limit_time=500, limit_memory=8, **options)
        said = [record.getMessage() for record in caplog.records]
        caplog.clear()
        here = tvm_sparse.compile(model, **options)
    assert said == [record.getMessage() for record in caplog.records]
    assert (apart.info, apart.threads) == (here.info, here.threads)
    assert apart.report.layers == here.report.layers
    assert str(apart.report) == str(here.report)
    x = np.random.default_rng(0).standard_normal((1, 8, 32), "float32")
    expected = onnxruntime_outputs(model, {"x": x})["y"]
    np.testing.assert_allclose(apart.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-4)
    apart.save(tmp_path / "m.so")
    with tvm_sparse.load(tmp_path / "m.so", threads=1) as loaded:
        np.testing.assert_array_equal(loaded.run([x])["y"], apart.run([x])["y"])


def test_no_time(model):
    with pytest.raises(LimitError, match=r"not done after 0.01 s; .*limit_time="):
        tvm_sparse.compile(model, {"x": (1, 8, 32)}, limit_time=0.01)


def test_no_memory(model):
    with pytest.raises(tvm_sparse.TvmSparseError) as raised:
        tvm_sparse.compile(model, {"x": (1, 8, 32)}, limit_memory=0.001)
    assert "memory" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("limits", [{"limit_time": 0}, {"limit_memory": float("nan")}])
def test_limits_that_are_none(model, limits):
    with pytest.raises(InputError, match="must be a number above 0"):
        tvm_sparse.compile(model, **limits)


def test_a_module_has_no_limits():
    module = dataflow(lambda emit, x: emit(x), (2, 3))
    with pytest.raises(InputError, match="are for ONNX files"):
        tvm_sparse.compile(module, limit_time=10)


def test_errors_are_those_of_the_compiler(tmp_path):
    with pytest.raises(ModelError, match="there is no such file"):
        tvm_sparse.compile(tmp_path / "no.onnx", limit_time=500)


def test_a_crash_is_an_error():
    with pytest.raises(LimitError, match=r"crashed: SIGSEGV; if it needed more than 3 GB"):
        limited.call("faulthandler:_sigsegv", {}, None, 3)


def test_it_is_another_process():
    assert limited.call("os:getpid", {}, None, None) != os.getpid()

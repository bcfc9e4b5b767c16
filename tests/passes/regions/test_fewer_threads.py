"""Networks that several threads compute no sooner than one are compiled for one."""

import numpy as np
import pytest
from onnx.helper import make_node
from tvm import relax

import tvm_sparse
from tvm_sparse.cpu.this_machine import usable_cores
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.report.analysis import analyze
from tvm_sparse.testing.models import dataflow, pruned, write_onnx

CORES = 4  # of the profile


def weight(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32") / shape[0] ** 0.5


def layers(rows, width, count=2):
    def body(emit, x):
        for _ in range(count):
            x = emit(relax.op.nn.relu(emit(relax.op.matmul(x, relax.const(weight(width, width))))))
        return x

    return dataflow(body, (rows, width))


def chosen(model, **options):
    """Return the threads that a model is compiled and analyzed for; both must be the same."""
    options = {"target": "haswell", "records": RecordedPlans(), **options}
    engine = tvm_sparse.compile(model, **options)
    assert engine.report.threads == engine.info.threads
    assert analyze(model, **options).cpu.cores == engine.info.threads
    return engine.info.threads


@pytest.mark.parametrize(
    ("make", "threads"),
    [
        pytest.param(lambda: layers(1, 64), 1, id="two small layers"),
        pytest.param(lambda: layers(1, 64, 30), 1, id="thirty small layers"),
        pytest.param(lambda: layers(128, 512), CORES, id="two large layers"),
        pytest.param(
            lambda: dataflow(lambda emit, x: emit(relax.op.tanh(x)), (40, 40)), 1, id="few values"
        ),
        pytest.param(
            lambda: dataflow(lambda emit, x: emit(relax.op.tanh(x)), (999, 999)),
            CORES,
            id="many values",
        ),
        pytest.param(
            lambda: dataflow(lambda emit, x: emit(relax.op.sum(x, [0, 1])), (999, 999)),
            CORES,
            id="a sum of many values",
        ),
        pytest.param(
            lambda: dataflow(lambda emit, x, y: emit(relax.op.matmul(x, y)), (99, 999), (999, 99)),
            CORES,
            id="a product that TVM lowers",
        ),
        pytest.param(
            lambda: dataflow(lambda emit, x, y: emit(relax.op.matmul(x, y)), (9, 9), (9, 9)),
            1,
            id="a small product that TVM lowers",
        ),
    ],
)
def test_small_networks_are_compiled_for_one_thread(make, threads):
    assert chosen(make()) == threads


def test_a_number_of_threads_that_is_given_stays():
    assert chosen(layers(1, 64), threads=3) == 3


def test_sizes_of_run_time_may_be_large(tmp_path):
    path = tmp_path / "model.onnx"
    write_onnx(path, [make_node("Relu", ["x"], ["y"])], {"x": ["n", 8]}, ["y"], {})
    engine = tvm_sparse.compile(path, target="haswell", records=RecordedPlans())
    assert engine.info.threads == CORES


def test_a_part_that_onnx_runtime_runs_may_be_large(tmp_path):
    path = tmp_path / "model.onnx"
    write_onnx(path, [make_node("Det", ["x"], ["y"])], {"x": [3, 3]}, ["y"], {})
    assert chosen(path) == CORES


def test_an_engine_takes_the_threads_of_its_library(tmp_path):
    path, x = tmp_path / "model.onnx", weight(1, 64)
    weights = {"w": pruned(np.random.default_rng(1), (64, 64), 0.5)}
    write_onnx(path, [make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, 64]}, ["y"], weights)
    compiled = tvm_sparse.compile(path, records=RecordedPlans())
    assert (compiled.threads, compiled.info.threads) == (1, 1)
    assert "1 thread)" in repr(compiled)
    compiled.save(tmp_path / "model.so")
    loaded = tvm_sparse.load(tmp_path / "model.so")
    assert loaded.threads == 1
    np.testing.assert_allclose(loaded.run([x])["y"], x @ weights["w"], atol=1e-4)
    tvm_sparse.compile(path, threads=999).save(tmp_path / "other.so")
    assert tvm_sparse.load(tmp_path / "other.so").threads == usable_cores()

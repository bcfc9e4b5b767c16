"""ONNX's own tests of single nodes: whatever TVM gets right, we get right.

The names of the tests that each gets right are kept in data/ (see benchmarks/backend_nodes.py);
a tenth of ours is run again here.
"""

import importlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

DATA = Path(__file__).parents[1] / "data" / "backend_nodes.json"
EVERY = 10


@pytest.fixture(scope="module")
def backend_nodes():
    return importlib.import_module("backend_nodes")


@pytest.fixture(scope="module")
def record():
    return json.loads(DATA.read_text())


def test_all_that_tvm_gets_right_is_right(record):
    assert set(record["tvm"]) <= set(record["tvm_sparse"])


def test_a_sample_is_still_right(backend_nodes, record):
    known = backend_nodes.cases()
    names = [name for name in record["tvm_sparse"] if name in known][::EVERY]
    assert len(names) > 50
    worker = backend_nodes.Worker(backend_nodes.OURS)
    try:
        failures = {
            name: outcome for name in names if (outcome := worker(name)) != backend_nodes.RIGHT
        }
    finally:
        worker.close()
    assert not failures


def test_wrong_outputs_are_noticed(backend_nodes):
    y = np.array([1.0, np.nan], np.float32)
    compare = backend_nodes.compare
    assert compare([y], [y.copy()], 1e-3, 1e-7) == backend_nodes.RIGHT
    assert compare([y + 1], [y], 1e-3, 1e-7) == "wrong: other values"
    assert compare([y.astype("float64")], [y], 1e-3, 1e-7).startswith("wrong: float64")
    assert compare([], [y], 1e-3, 1e-7) == "wrong: 0 outputs, expected 1"


def test_a_crash_is_an_outcome_and_the_next_test_runs(backend_nodes):
    worker = backend_nodes.Worker(backend_nodes.OURS)
    try:
        assert worker("test_abs") == backend_nodes.RIGHT
        worker._process.kill()
        worker._process.join()
        assert worker("test_abs").startswith("crash")
        assert worker("test_abs") == backend_nodes.RIGHT
    finally:
        worker.close()


def test_the_table_counts_by_domain(backend_nodes):
    right, wrong = backend_nodes.RIGHT, "wrong: other values"
    names = [name for name in backend_nodes.cases("test_celu*") if "expanded" not in name]
    table = backend_nodes.table({name: {"tvm": wrong, "tvm_sparse": right} for name in names})
    assert table.splitlines()[-1].endswith(f"| {len(names)} | 0 | {len(names)} |")
    assert onnx.__version__ in table

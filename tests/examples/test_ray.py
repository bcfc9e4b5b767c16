"""The examples that run libraries on the workers of a Ray cluster: here on two local ones."""

import contextlib
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import tvm_sparse
from tvm_sparse.testing.models import onnxruntime_outputs, write_mlp

ray = pytest.importorskip("ray")
EXAMPLES = Path(__file__).parents[2] / "examples/ray"


@pytest.fixture(scope="module")
def cluster():
    """Start Ray with two cores; its workers find the examples."""
    environment = {"env_vars": {"PYTHONPATH": str(EXAMPLES)}}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env=environment, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_mlp(tmp_path_factory.mktemp("ray") / "mlp.onnx")


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "mlp.so"
    tvm_sparse.compile(model, {"x": ("batch", 20, 32)}, threads=1).save(path)
    return tvm_sparse.load(path, threads=1)


@pytest.fixture(autouse=True)
def examples_are_found(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])


def rows_of(count):
    return np.random.default_rng(0).standard_normal((count, 20, 32)).astype("float32")


def test_a_data_set_survives_a_worker_that_is_killed(cluster, engine, model, tmp_path):
    data_set = import_module("data_set")
    died = tmp_path / "died"

    class KilledOnce(data_set.Infer):
        def __call__(self, batch):
            if not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    x = rows_of(50)
    rows = ray.data.from_items([{"id": i, "x": x[i]} for i in range(50)])
    found = data_set.infer(rows, engine, workers=2, batch=8, worker=KilledOnce).take_all()
    assert died.exists()
    assert sorted(row["id"] for row in found) == list(range(50))
    expected = onnxruntime_outputs(model, {"x": x})["y"]
    for row in found:
        np.testing.assert_allclose(row["y"], expected[row["id"]], atol=1e-4)


def ask(fields):
    request = urllib.request.Request("http://127.0.0.1:8000", json.dumps(fields).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def replicas():
    """Return the processes of replicas, by Ray's names for them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_replica = path.read_bytes().startswith(b"ray::ServeReplica")
        except OSError:
            continue
        if is_replica:
            found.append(int(path.parent.name))
    return found


def test_a_service_survives_a_replica_that_is_killed(cluster, engine, model):
    from ray import serve

    service = import_module("service")
    serve.run(service.service(engine, 2))
    try:
        x = rows_of(12)
        expected = onnxruntime_outputs(model, {"x": x})["y"]
        for i in range(12):
            if i == 4:
                os.kill(replicas()[0], signal.SIGKILL)
                with contextlib.suppress(urllib.error.HTTPError):  # perhaps of the killed one
                    ask({"x": x[i].tolist()})
            answer = ask({"x": x[i].tolist()})
            np.testing.assert_allclose(answer["y"], expected[i], atol=1e-4)
        for wrong in ({}, [1], {"x": [1, 2]}, {"x": "text"}):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                ask(wrong)
    finally:
        serve.shutdown()

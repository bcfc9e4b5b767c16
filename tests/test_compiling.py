"""Several threads may compile, save and run at once, and a program keeps its standard output."""

import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.report.analysis import analyze
from tvm_sparse.testing.models import pruned, write_onnx


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Chains of layers; one of their nodes has no converter, so that its import fails at first."""
    folder, rng = tmp_path_factory.mktemp("models"), np.random.default_rng(0)
    paths = []
    for number in range(4):
        nodes, weights = [], {}
        for i in range(6):
            weights[f"w{i}"] = pruned(rng, (16 + number, 16 + number), 0.2)
            nodes += [
                make_node("MatMul", [f"h{i}", f"w{i}"], [f"m{i}"]),
                make_node("Relu", [f"m{i}"], [f"h{i + 1}"]),
            ]
        nodes.append(make_node("Det", ["h6"], ["d"]))
        inputs = {"h0": [16 + number, 16 + number]}
        paths.append(write_onnx(folder / f"{number}.onnx", nodes, inputs, ["h6", "d"], weights))
    return paths


def test_threads_compile_save_and_run_at_once(models, tmp_path):
    def serve(number):
        path = models[number]
        with tvm_sparse.compile(path, threads=1) as engine:
            engine.save(tmp_path / f"{number}.so")
            (size, _) = engine.inputs[0].shape
            x = np.eye(size, dtype="float32")
            with tvm_sparse.load(tmp_path / f"{number}.so", threads=1) as loaded:
                np.testing.assert_array_equal(loaded.run([x])["h6"], engine.run([x])["h6"])
        return len(analyze(path).layers)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(serve, range(4))) == [6] * 4


def test_what_the_program_prints_meanwhile_is_seen(models, monkeypatch):
    out, is_over = io.StringIO(), threading.Event()
    monkeypatch.setattr(sys, "stdout", out)
    printed = 0

    def talk():
        nonlocal printed
        while not is_over.wait(0.001):
            print("line")
            printed += 1

    thread = threading.Thread(target=talk)
    thread.start()
    tvm_sparse.compile(models[0], threads=1)
    is_over.set()
    thread.join()
    assert sys.stdout is out
    assert out.getvalue() == "line\n" * printed

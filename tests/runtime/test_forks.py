"""Engines work in the children of forks, and in the parent afterwards.

The processes are those of a program of its own: the libraries that other tests import do not all
bear a fork.
"""

import subprocess
import sys

import numpy as np
import pytest
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.testing.models import pruned, write_onnx

PROGRAM = """
import multiprocessing, os, signal, sys, threading
import numpy as np, tvm_sparse

engine = tvm_sparse.load(sys.argv[1], threads=2)
rng = np.random.default_rng(0)
inputs = [rng.standard_normal(spec.shape).astype(spec.dtype) for spec in engine.inputs]
expected = None

def check(_=None):
    result = engine.run(inputs)["y"]
    assert expected is None or np.array_equal(result, expected)
    return result

def in_child(work, leave=os._exit):
    pid = os.fork()
    if pid == 0:
        signal.alarm(240)  # a child that hangs dies
        try:
            work()
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
        leave(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with kernels on two threads and a part that ONNX Runtime runs."""
    weights = {"w": pruned(np.random.default_rng(0), (512, 512), 0.3)}
    nodes = [
        make_node("MatMul", ["x", "w"], ["h"]),
        make_node("Det", ["m"], ["d"]),
        make_node("Add", ["h", "d"], ["y"]),
    ]
    inputs = {"x": [128, 512], "m": [3, 3]}
    path = tmp_path_factory.mktemp("forks") / "model.onnx"
    write_onnx(path, nodes, inputs, ["y"], weights)
    tvm_sparse.compile(path, threads=2).save(path.with_suffix(".so"))
    return path


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("in_child(check); expected = check(); in_child(check)", id="not run before"),
        pytest.param(
            "expected = check(); in_child(check); in_child(check, sys.exit); check()",
            id="run before",
        ),
        pytest.param(
            "expected = check(); in_child(lambda: in_child(check)); check()", id="of a child"
        ),
        pytest.param(
            "expected = check()\n"
            "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
            "    pool.map(check, range(4))",
            id="multiprocessing",
        ),
        pytest.param(
            "expected, is_over = check(), threading.Event()\n"
            "def serve():\n"
            "    while not is_over.is_set(): check()\n"
            "threads = [threading.Thread(target=serve) for _ in range(2)]\n"
            "[thread.start() for thread in threads]\n"
            "for _ in range(4): in_child(check)\n"
            "forker = threading.Thread(target=in_child, args=(check,))\n"
            "forker.start(); forker.join()\n"
            "is_over.set(); [thread.join() for thread in threads]",
            id="while others run",
        ),
        pytest.param(
            # Each child imports TVM's compiler, which takes seconds: one compiles, and runs.
            "check(); in_child(engine.close)\n"
            "in_child(lambda: tvm_sparse.compile(sys.argv[2]).run(inputs))\n"
            "engine.close(); in_child(engine.close)",
            id="close and compile",
        ),
    ],
)
def test_engines_work_after_a_fork(model, script):
    check_in_a_process(PROGRAM + script, model)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model that callers compute themselves on one thread: ONNX Runtime runs no part of it."""
    path = tmp_path_factory.mktemp("forks") / "model.onnx"
    weights = {"w": pruned(np.random.default_rng(0), (512, 512), 0.3)}
    write_onnx(path, [make_node("MatMul", ["x", "w"], ["y"])], {"x": [128, 512]}, ["y"], weights)
    tvm_sparse.compile(path, threads=1).save(path.with_suffix(".so"))
    return path


def test_a_fork_waits_for_callers_that_compute(plain):
    script = (
        "expected = check(); in_child(check); in_child(check, sys.exit); check()\n"
        "in_child(lambda: in_child(check), sys.exit)\n"
        "def fork():\n"
        "    for _ in range(4): in_child(check, sys.exit)\n"
        "forker = threading.Thread(target=fork); forker.start()\n"
        "while forker.is_alive(): check()\n"
        "other = threading.Thread(target=check); other.start(); other.join()\n"
        "in_child(check); check(); in_child(engine.close)\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    pool.map(check, range(4))"
    )
    check_in_a_process(PROGRAM.replace("threads=2", "threads=1") + script, plain)


def test_engines_with_streams_work_after_a_fork(model):
    script = (
        "expected, is_over = check(), threading.Event()\n"
        "def serve():\n"
        "    while not is_over.is_set(): check()\n"
        "threads = [threading.Thread(target=serve) for _ in range(4)]\n"
        "[thread.start() for thread in threads]\n"
        "for _ in range(4): in_child(check)\n"
        "is_over.set(); [thread.join() for thread in threads]\n"
        "in_child(engine.close)\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    pool.map(check, range(4))"
    )
    check_in_a_process(PROGRAM.replace("threads=2", "threads=2, streams=3") + script, model)


def check_in_a_process(program, model):
    command = [sys.executable, "-c", program, model.with_suffix(".so"), model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

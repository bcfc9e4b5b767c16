"""Which thread computes a call, and that calls of several threads do not mix."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.errors import ClosedError
from tvm_sparse.runtime.machine import MachineClosed
from tvm_sparse.testing.models import write_onnx

PROGRAM = """
import os, sys, threading, time, numpy as np, tvm_sparse
def tasks(): return len(os.listdir("/proc/self/task"))
def started(most):
    patience = time.monotonic() + 30  # a joined thread may take a moment to end
    while tasks() - before > most and time.monotonic() < patience: time.sleep(0.01)
    return tasks() - before
x = np.ones((1, 20, 32), "float32")
engine = tvm_sparse.load(sys.argv[1], threads=1)
before = tasks()
calls = [threading.Thread(target=engine.run, args=([x],)) for _ in range(3)]
for call in calls: call.start()
for call in calls: call.join()
engine.run([x])
print(started(0))
engine.submit([x]).result()
print(started(1))
"""


def test_callers_of_one_thread_compute_themselves(saved):
    command = [sys.executable, "-c", PROGRAM, saved]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_of_several_threads_do_not_mix(saved, x, threads):
    factors = np.arange(1, 4, dtype="float32")
    with tvm_sparse.load(saved, threads=threads) as engine:
        expected = [engine.run([x * factor])["y"] for factor in factors]
        wrong = []

        def call(number):
            run = engine.run if number < 2 else lambda inputs: engine.submit(inputs).result()
            for _ in range(50):
                if not np.array_equal(run([x * factors[number]])["y"], expected[number]):
                    wrong.append(number)

        others = [threading.Thread(target=call, args=(number,)) for number in (1, 2)]
        for other in others:
            other.start()
        call(0)
        for other in others:
            other.join()
        assert not wrong


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("run_before", [True, False])
def test_a_closed_engine_refuses_calls(saved, x, threads, run_before):
    engine = tvm_sparse.load(saved, threads=threads)
    if run_before:
        engine.run([x])
    machine = engine.usable_machine()
    engine.close()
    for call in (lambda: engine.run([x]), lambda: engine.submit([x])):
        with pytest.raises(ClosedError):
            call()
    for call in (lambda: machine.run([]), lambda: machine.submit(lambda: None)):
        with pytest.raises(MachineClosed):
            call()


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def test_a_closed_engine_leaves_no_blocks_in_the_pool(tmp_path):
    nodes = [make_node("Exp", ["x"], ["e"]), make_node("CumSum", ["e", "axis"], ["c"])]
    nodes.append(make_node("ReduceSum", ["c"], ["y"]))
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": ["n"]}, ["y"], {"axis": np.array(0)})
    engine = tvm_sparse.compile(path, threads=1)
    x = np.zeros(8 << 20, "float32")
    engine.run([x])
    before = resident_bytes()
    engine.run([x])
    assert resident_bytes() - before < 8 << 20  # the blocks are there
    engine.close()
    assert before - resident_bytes() > 24 << 20

"""Engines that run several inferences at once."""

import pickle
import threading

import numpy as np
import pytest

import tvm_sparse
from tvm_sparse.cpu.this_machine import usable_cores
from tvm_sparse.errors import ClosedError, InputError, RunError
from tvm_sparse.runtime.machine import Machine


@pytest.fixture
def engine(saved):
    with tvm_sparse.load(saved, threads=1, streams=3) as engine:
        yield engine


def test_as_many_calls_as_streams_run_at_once(engine, x):
    engine.run([x])
    together = threading.Barrier(4)  # three calls, and this thread, which comes last
    started = []

    def call():
        started.append(threading.get_ident())
        together.wait(30)

    calls = [engine._machine.submit(call) for _ in range(3)]
    late = engine.submit([x])
    assert not late.done()
    together.wait(30)
    for each in calls:
        each.result(30)
    assert len(set(started)) == 3
    late.result(30)


def test_every_call_gets_its_own_outputs(engine, x, y):
    factors = [1.0, 0.0] * 20
    results = [engine.submit([x * np.float32(factor)]) for factor in factors]
    outputs = [result.result()["y"] for result in results]
    np.testing.assert_allclose(outputs[0], y, atol=1e-4 * np.abs(y).max())
    assert not np.array_equal(outputs[0], outputs[1])
    for factor, output in zip(factors, outputs, strict=True):
        np.testing.assert_array_equal(output, outputs[0 if factor else 1])


def test_submit_refuses_inputs_at_once(engine, x):
    with pytest.raises(InputError, match="expected dtype float32"):
        engine.submit([x.astype("float64")])


def test_an_error_of_a_call_is_in_its_result(engine, x, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(Machine, "call", fail)
    with pytest.raises(RunError, match="there is not enough memory"):
        engine.submit([x]).result()


def test_close_waits_for_all_calls(engine, x):
    results = [engine.submit([x]) for _ in range(8)]
    engine.close()
    assert all(result.done() for result in results)
    with pytest.raises(ClosedError):
        engine.submit([x])


def test_threads_are_a_share_of_the_cores(saved, model):
    with tvm_sparse.load(saved, streams=usable_cores()) as engine:
        assert engine.threads == 1
        assert pickle.loads(pickle.dumps(engine)).streams == usable_cores()
    engine = tvm_sparse.compile(model, {"x": (1, 20, 32)}, streams=usable_cores())
    assert (engine.threads, engine.info.threads, engine.streams) == (1, 1, usable_cores())


@pytest.mark.parametrize("streams", [0, -1, 1.5, True, "2"])
def test_numbers_of_streams_that_are_none(saved, streams):
    with pytest.raises(InputError, match="streams must be"):
        tvm_sparse.load(saved, streams=streams)

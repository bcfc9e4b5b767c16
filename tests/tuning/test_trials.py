"""The tuner's loop on tiny kernels: bad candidates, resuming, devices of a tracker that die."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from tvm_sparse.errors import RemoteError, TuningError
from tvm_sparse.records import file
from tvm_sparse.records.record import Key
from tvm_sparse.runtime.board import Board
from tvm_sparse.tuning import trials
from tvm_sparse.tuning.devices import Arguments, Build, Builders, Device, RemoteDevice
from tvm_sparse.tuning.search import FINAL_ROUNDS
from tvm_sparse.tuning.task import Store, Task

DATA = Path(__file__).parents[1] / "data"
KEY = Key("tiny", "here", 1)


@pytest.fixture(autouse=True, scope="module")
def candidates_in_workers():
    """Let the processes of the tuner import `candidates`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(DATA), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    path = tmp_path_factory.mktemp("arguments") / "arguments.npz"
    x = np.random.default_rng(0).standard_normal(4096, "float32")
    np.savez(path, x=x)
    return Arguments(path, (4096,))


@pytest.fixture(scope="module")
def builders():
    pool = Builders(2, limit=5)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def device():
    here = Device(threads=1, flush_bytes=4096)
    yield here
    here.close()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "records.jsonl")


def task(arguments, *plans, key=KEY):
    def build(plan):
        # The outputs of few and of many passes are the same to a float's precision.
        return Build("candidates:build", {"fault": "", **plan})

    return Task(key.structure, key, tuple(plans), build, arguments)


def test_finds_the_fastest(arguments, builders, device, store):
    states = []
    work = task(arguments, *({"work": w} for w in (400, 900, 60, 2000, 200)))
    (outcome,) = trials.run([work], [device], builders, store, states.append)
    assert outcome.best.plan == {"work": 60}
    assert outcome.default.plan == {"work": 400}
    assert outcome.default.turn == outcome.best.turn
    assert outcome.gain > 1
    assert len(outcome.best.seconds) == FINAL_ROUNDS
    assert (outcome.trials, outcome.failures) == (4, ())
    assert [(s.done, s.total) for s in states] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_bad_candidates_are_failed_trials(arguments, builders, device, store, monkeypatch):
    monkeypatch.setattr("tvm_sparse.tuning.devices.LOAD_SECONDS", 1.0)
    faults = ["build raises", "build crashes", "build hangs", "crashes", "hangs", "is wrong"]
    monkeypatch.setattr(builders, "_limit", 1.0)
    bad = [{"work": 50, "fault": fault} for fault in faults]
    good = [{"work": 400}, {"work": 100}]
    work = task(arguments, good[0], *bad, good[1])
    (outcome,) = trials.run([work], [device], builders, store)
    assert outcome.best.plan == good[1]
    reasons = {record.plan["fault"]: record.failure for record in outcome.failures}
    assert reasons == {
        "build raises": "not built: ValueError: no such tile",
        "build crashes": "not built: crashed: SIGSEGV",
        "build hangs": "not built: build: no answer in 1 s",
        "crashes": "crashed: SIGABRT",
        "hangs": "load: no answer in 1 s",
        "is wrong": reasons["is wrong"],
    }
    assert reasons["is wrong"].startswith("ArithmeticError: outputs differ by")

    before = store.path.read_bytes()
    trials.run([work], [device], builders, Store(store.path))
    assert store.path.read_bytes() == before


def test_a_default_that_crashes(arguments, builders, device, store):
    work = task(arguments, {"work": 50, "fault": "crashes"}, {"work": 90}, {"work": 400})
    (outcome,) = trials.run([work], [device], builders, store)
    assert outcome.best.plan == {"work": 90}
    assert outcome.default is None


def test_one_plan_only(arguments, builders, device, store):
    (outcome,) = trials.run([task(arguments, {"work": 90})], [device], builders, store)
    assert outcome.best == outcome.default
    assert outcome.gain == 1


def test_more_trials_go_on_where_fewer_stopped(arguments, builders, device, store):
    plans = [{"work": w} for w in (400, 300, 200, 100)]
    states = []
    trials.run([task(arguments, *plans[:2])], [device], builders, store)
    work = task(arguments, *plans)
    (outcome,) = trials.run([work], [device], builders, store, states.append)
    assert outcome.best.plan == {"work": 100}
    assert [(s.done, s.total) for s in states] == [(1, 2), (2, 2)]


TUNE = """
    import signal
    import sys
    from pathlib import Path
    from tvm_sparse.tuning import trials
    from tvm_sparse.tuning.devices import Arguments, Build, Builders, Device
    from tvm_sparse.records.record import Key
    from tvm_sparse.tuning.task import Store, Task

    if __name__ == "__main__":
        # Also where the tests run in the background of a shell, which has it ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        plans = tuple({"work": 300 + w} for w in range(int(sys.argv[3])))
        arguments = Arguments(Path(sys.argv[1]), (4096,))
        build = lambda plan: Build("candidates:build", plan)
        task = Task("tiny", Key("tiny", "here", 1), plans, build, arguments)
        store = Store(Path(sys.argv[2]))
        progress = lambda state: print(state.done, state.total, flush=True)
        builders, device = Builders(2), Device(1, 4096)
        trials.run([task], [device], builders, store, progress)
        builders.close()
        device.close()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_ended_in_the_middle_and_taken_up_again(arguments, tmp_path, how):
    """No record is lost and no trial repeated."""
    script, path = tmp_path / "tune.py", tmp_path / "records.jsonl"
    script.write_text(textwrap.dedent(TUNE))
    command = [sys.executable, script, arguments.path, path, "40"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        printed = [process.stdout.readline() for _ in range(4)]
        process.send_signal(how)
        left, _ = process.communicate(timeout=20)
    assert process.returncode != 0
    done = len([line for line in (*printed, *left.splitlines()) if line.strip()])
    first = file.read(path)
    tried = {record.plan["work"] for record in first.of(KEY)}
    assert len(tried) - 1 in (done, done + 1)  # the default is no trial

    command[-1] = str(len(tried) + 5)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.splitlines()[-1] == f"{5} {5}"
    both = file.read(path)
    assert len(both) > len(first)
    trials_of = [
        [record.plan["work"] for record in turn[1:]] for turn in turns_of(both) if len(turn) == 2
    ]
    assert len(trials_of) == len({tuple(works) for works in trials_of}) == len(tried) + 4


def turns_of(found):
    turns = {}
    for record in found.of(KEY):
        turns.setdefault(record.turn, []).append(record)
    return list(turns.values())


SERVER = """
    import sys, time
    from tvm.rpc import server

    if __name__ == "__main__":
        at = ("127.0.0.1", int(sys.argv[1]))
        port = server._popen_start_rpc_server("127.0.0.1", 9100, 9190, tracker_addr=at, key="tiny")
        print(port, flush=True)
        time.sleep(1000)
"""


@pytest.fixture
def farm(tmp_path, monkeypatch):
    """Start a tracker and two servers; returns the tracker and the servers' processes."""
    from tvm.rpc.tracker import Tracker as TrackerProcess

    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    script = tmp_path / "server.py"
    script.write_text(textwrap.dedent(SERVER))
    tracker = TrackerProcess("127.0.0.1", port=9000, port_end=9090, silent=True)
    servers = []
    for _ in range(2):  # one after the other: both would try the same port
        server = subprocess.Popen(
            [sys.executable, script, str(tracker.port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        servers.append(server)
        assert server.stdout.readline().strip().isdigit()
    here = Board("127.0.0.1", tracker.port, "tiny")
    end = time.monotonic() + 20
    while count(here) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    yield here, servers
    for server in servers:
        end_group(server)
    tracker.terminate()


def count(board):
    with contextlib.suppress(RemoteError):
        return board.check()
    return 0


def end_group(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_farm_of_which_one_device_dies(arguments, builders, store, farm):
    board, servers = farm
    devices = [RemoteDevice(board, 1, 4096) for _ in range(board.check())]
    work = [
        task(arguments, *({"work": w} for w in range(900, 740, -20)), key=Key(name, "board", 1))
        for name in ("a", "b", "c")
    ]

    def kill_one(state):
        if state.done == 5:
            end_group(servers[0])

    outcomes = trials.run(work, devices, builders, store, kill_one)
    for device in devices:
        device.close()
    assert board.check() == 1
    for outcome in outcomes:
        assert outcome.trials == 7
        assert outcome.failures == ()
        assert outcome.best.plan["work"] < 850


def test_all_devices_gone(arguments, builders, store, farm):
    board, servers = farm
    devices = [RemoteDevice(board, 1, 4096)]

    def kill_both(state):
        for server in servers:
            end_group(server)

    work = [task(arguments, *({"work": w} for w in range(900, 740, -20)))]
    with pytest.raises(TuningError, match=r"no device is left .*1 of 7 trials are in"):
        trials.run(work, devices, builders, store, kill_both)
    devices[0].close()
    assert len(store.records) >= 2

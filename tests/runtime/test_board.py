"""Boards: TVM's own RPC server and tracker on this machine, and what is said when they fail."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tvm_sparse
from tvm_sparse.bench import on_board
from tvm_sparse.bench.on_board import measure_on_board
from tvm_sparse.cli import main
from tvm_sparse.errors import LibraryError, RemoteError
from tvm_sparse.runtime.board import Board, RemoteEngine
from tvm_sparse.testing.models import write_mlp

SHAPES = {"x": (1, 20, 32)}
KEY = "here"


@contextlib.contextmanager
def process(module, *arguments, **variables):
    """Run a module of TVM's; it and its children end with the test."""
    command = [sys.executable, "-m", module, "--host", "127.0.0.1", *map(str, arguments)]
    started = subprocess.Popen(
        command, env=os.environ | variables, start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        yield started
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def until(is_true):
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end, "the server did not start"
        time.sleep(0.1)


def answers(board):
    with contextlib.suppress(RemoteError):
        board.check()
        return True
    return False


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def ports():
    """Two ports that were free."""
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


@pytest.fixture(scope="module")
def board(ports):
    """A tracker with a board of two threads."""
    tracker, server = ports
    at = f"127.0.0.1:{tracker}"
    arguments = ["--port", server, "--port-end", server + 1, "--tracker", at, "--key", KEY]
    with (
        process("tvm.exec.rpc_tracker", "--port", tracker, "--port-end", tracker + 1),
        process("tvm.exec.rpc_server", *arguments, TVM_NUM_THREADS="2"),
    ):
        found = Board("127.0.0.1", tracker, KEY)
        until(lambda: answers(found))
        yield found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_mlp(tmp_path_factory.mktemp("remote") / "mlp.onnx")


@pytest.fixture(scope="module")
def library(model):
    tvm_sparse.compile(model, SHAPES, threads=1).save(model.with_suffix(".so"))
    return model.with_suffix(".so")


def test_the_command_line_measures_a_model_on_a_board(model, board, tmp_path, capsys):
    arguments = ["--tracker", f"{board.host}:{board.port}", "--key", KEY, "--json", "results.json"]
    arguments[-1] = str(tmp_path / "results.json")
    quick = ["--rounds", "2", "--seconds", "0"]
    assert main.main(["benchmark", str(model), "--shape", "x=1,20,32", *quick, *arguments]) == 0
    table = capsys.readouterr().out
    assert f"mlp on here at the tracker 127.0.0.1:{board.port}, 2 threads" in table
    (comparison,) = json.loads((tmp_path / "results.json").read_text())["comparisons"]
    (ours,) = comparison["measurements"]
    assert [len(samples) for samples in ours["rounds"]] == [3, 3]
    assert 0 <= ours["output_error"] < 1e-5
    assert min(ours["minimum"], ours["compile_seconds"], ours["library_bytes"]) > 0


def test_a_library_runs_as_it_does_here(library, board):
    x = np.random.default_rng(1).standard_normal((1, 20, 32)).astype("float32")
    (expected,) = tvm_sparse.load(library, threads=1).run({"x": x}).values()
    assert np.abs(expected).max() > 0.1
    with RemoteEngine(board.connect(), library, threads=1) as engine:
        assert (engine.threads, engine.info.inputs[0].name) == (1, "x")
        np.testing.assert_array_equal(engine.run({"x": x})["y"], expected)
        assert len(engine.measure(4)) == 4


def test_wrong_outputs_are_reported_and_not_timed(model, board, monkeypatch):
    monkeypatch.setattr(on_board, "_reference", lambda *_: [np.ones((1, 20, 48))])
    comparison = measure_on_board(model, board, SHAPES)
    (ours,) = comparison.measurements
    assert ours.failure.startswith("wrong outputs: relative error")
    assert ours.rounds == ()


def test_more_threads_than_the_board_has(library, board):
    with pytest.raises(RemoteError, match=r"runs 2 threads, not 3; start .*TVM_NUM_THREADS=3"):
        measure_on_board(library, board, threads=3)


def test_what_is_no_library(board, tmp_path):
    (tmp_path / "a.so").write_bytes(b"\x7fELF of something else")
    with pytest.raises(LibraryError, match=r"a\.so: truncated"):
        measure_on_board(tmp_path / "a.so", board)


def test_a_key_that_the_tracker_does_not_know(board):
    with pytest.raises(RemoteError, match="has no board of key 'there'; it has here"):
        Board(board.host, board.port, "there").check()


def test_a_board_of_a_tracker_is_to_be_asked_for_there(board, ports):
    with pytest.raises(RemoteError, match=r"no session with .* if it belongs to a tracker"):
        Board("127.0.0.1", ports[1]).connect()


@pytest.mark.parametrize(("key", "module"), [(None, "rpc_server"), (KEY, "rpc_tracker")])
def test_nobody_listens(port, key, module):
    with pytest.raises(RemoteError, match=rf"answers at .* \(Connection refused\); .*{module}"):
        Board("127.0.0.1", port, key).check()


def test_what_listens_is_no_tracker(monkeypatch):
    monkeypatch.setattr("tvm_sparse.runtime.board.CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        board = Board("127.0.0.1", silent.getsockname()[1], KEY)
        with pytest.raises(RemoteError, match="no tracker answers at"):
            board.check()


def test_a_board_that_stops_is_a_lost_session(library, port):
    x = np.zeros((1, 20, 32), "float32")
    with process("tvm.exec.rpc_server", "--port", port, "--port-end", port + 1):
        board = Board("127.0.0.1", port)
        until(lambda: answers(board))
        engine = RemoteEngine(board.connect(), library)
        engine.run({"x": x})
    with pytest.raises(RemoteError, match="the session was lost while the model ran"):
        engine.run({"x": x})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tracker", "h:1"], "belong together"),
        (["--key", "rpi4"], "belong together"),
        (["--rpc", "h:1", "--tracker", "h:1", "--key", "rpi4"], "give one of them"),
        (["--rpc", "h:1", "--compare", "onnxruntime"], "leave it out for a board"),
    ],
)
def test_options_that_do_not_fit(arguments, message, capsys):
    assert main.main(["benchmark", "model.onnx", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("address", ["host", ":9090", "host:0", "host:99999", "host:x"])
def test_addresses_have_a_host_and_a_port(address, capsys):
    with pytest.raises(SystemExit):
        main.main(["benchmark", "model.onnx", "--rpc", address])
    assert "is not like 192.168.1.20:9090" in capsys.readouterr().err


@pytest.mark.parametrize(
    "answer",
    [
        b"5",
        b"{}",
        b"[0, 5]",
        b"[1, 2, 3]",
        b'[0, {"server_info": 3}]',
        b'[0, {"server_info": [{}]}]',
        b"\xff\xff",
        b"[" * 100000,
        pytest.param(2**31 - 1, id="huge"),
        pytest.param(-1, id="negative"),
        pytest.param(None, id="closed"),
    ],
)
def test_what_answers_is_no_tracker(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.sendall(connection.recv(4))
                connection.recv(100)
                if isinstance(answer, int):
                    connection.sendall(struct.pack("<i", answer))
                elif answer is not None:
                    connection.sendall(struct.pack("<i", len(answer)) + answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(100):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(RemoteError, match=r"no tracker answers at 127.0.0.1:\d+ \(it"):
            Board("127.0.0.1", server.getsockname()[1], KEY).check()
        thread.join()


def test_a_tracker_that_answers_slowly(monkeypatch):
    monkeypatch.setattr("tvm_sparse.runtime.board.CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(connection.recv(4))
                connection.sendall(struct.pack("<i", 1000))
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.05)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(RemoteError, match=r"no tracker answers .*timed out"):
            Board("127.0.0.1", server.getsockname()[1], KEY).check()
        thread.join()

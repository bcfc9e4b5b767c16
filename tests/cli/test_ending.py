"""Signals end the program at any moment, with their exit status and nothing left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node

from tvm_sparse.testing.models import pruned, write_onnx

# The program with another verb: it is busy in a temporary folder, in one way or another.
PROGRAM = """
import ctypes, os, sys, tempfile, threading, time
from tvm_sparse.cli import main
from tvm_sparse.errors import ModelError

def in_python():
    time.sleep(100)

def in_foreign_code():
    ctypes.CDLL(None).sleep(100)  # as in LLVM, where no handler of Python's runs

def in_code_that_hides_errors():
    while True:
        try:
            time.sleep(100)
        except BaseException:
            pass

def in_foreign_code_that_complains():
    try:
        time.sleep(100)
    except BaseException:
        os.write(2, b"a block is left")
        raise

def in_code_that_raises_another_error():
    try:
        time.sleep(100)
    except BaseException:
        raise ModelError("not the user's mistake")

def in_a_destructor():
    class Slow:
        def __del__(self):
            time.sleep(100)
    Slow()

def beside_a_thread_that_does_not_end():
    threading.Thread(target=time.sleep, args=(100,)).start()
    time.sleep(100)

def run(options):
    with tempfile.TemporaryDirectory(dir=sys.argv[2]):
        print("busy", flush=True)
        globals()[sys.argv[1]]()

def declare(verbs):
    verbs.add_parser(sys.argv[1]).set_defaults(verb=run)
    verbs.choices[sys.argv[1]].add_argument("folder")

main.VERBS = (type("verb", (), {"declare": declare}),)
sys.exit(main.main())
"""
HOW = [line[4:-3] for line in PROGRAM.splitlines() if line.startswith(("def in_", "def beside_"))]


@pytest.mark.parametrize("how", HOW)
def test_ctrl_c(how, tmp_path):
    ended_by(signal.SIGINT, how, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("how", HOW[:2])
def test_other_signals(how, number, tmp_path):
    ended_by(number, how, tmp_path)


def test_a_signal_that_the_caller_ignores_is_ignored(tmp_path):
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ended_by(signal.SIGTERM, HOW[0], tmp_path, before=signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, old)


def ended_by(number, how, folder, before=None):
    command = [sys.executable, "-c", PROGRAM, how, folder]
    with start(command) as process:
        assert process.stdout.readline() == "busy\n"
        if before is not None:
            process.send_signal(before)
            time.sleep(0.2)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", "")
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A chain of convolutions, all different, which takes seconds to compile and longer to tune."""
    rng, nodes, weights, last = np.random.default_rng(0), [], {}, 8
    for i in range(12):
        size = 8 + 4 * i
        weights[f"w{i}"] = pruned(rng, (size, last, 3, 3), 0.2)
        nodes += [
            make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], pads=[1] * 4),
            make_node("Relu", [f"c{i}"], [f"x{i + 1}"]),
        ]
        last = size
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    return write_onnx(path, nodes, {"x0": [1, 8, 28, 28]}, ["x12"], weights)


def children(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def start(command, **variables):
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
        start_new_session=True,
    )


def has_loaded(pid, library):
    """Whether a child of a process, in which a verb does its work, has loaded a library."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        with contextlib.suppress(OSError):
            if library in Path(f"/proc/{child}/maps").read_text():
                return True
    return False


@pytest.mark.parametrize("delay", [0.0, 0.7])
def test_ctrl_c_while_a_model_is_compiled(model, tmp_path, delay):
    library = tmp_path / "model.so"
    program = "import sys; from tvm_sparse.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "compile", model, "-o", library]
    with start(command) as process:
        while process.poll() is None and not has_loaded(process.pid, "libtvm_compiler"):
            time.sleep(0.02)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_tuner_and_its_processes_end(model, tmp_path, number):
    records = tmp_path / "records.jsonl"
    program = "import sys; from tvm_sparse.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "tune", model, "--records", records]
    with start(command) as process:
        while process.poll() is None and not (workers := children(process.pid)):
            time.sleep(0.05)
        time.sleep(0.5)
        workers += children(process.pid)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in err
    end = time.monotonic() + 60
    while any(map(is_alive, workers)):
        assert time.monotonic() < end, "a process of the tuner lives on"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_program_is_imported(number):
    program = """
import sys, time
from tvm_sparse.cli.entry import main

class Slow:
    def find_spec(self, name, path, target=None):
        if name == "tvm_sparse.cli.main":
            print("started", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
sys.exit(main())
"""
    command = [sys.executable, "-c", program, "targets"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "")

"""Verbs that compile run in a child: what ends it, or never ends, is one line and status 2."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import os, signal, sys, time
from tvm_sparse.cli import compile, main
def run(options):
    print("started", flush=True)
    {what}
compile.run = run
sys.argv[1:] = ["compile", "m.onnx", "-o", "m.so", *sys.argv[1:]]
raise SystemExit(main.main())
"""


def start(what, *arguments):
    program = PROGRAM.replace("{what}", what)
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(what, *arguments):
    process = start(what, *arguments)
    out, err = process.communicate(timeout=60)
    assert out == "started\n"
    return process.returncode, err


def test_a_verb_that_ends_by_itself():
    assert ended("pass") == (0, "")
    assert ended("raise SystemExit(7)") == (7, "")


def test_a_crash():
    status, err = ended("os.kill(os.getpid(), signal.SIGSEGV)")
    assert status == 2
    assert err.startswith("error: the compiler crashed (SIGSEGV)") and err.count("\n") == 1


def test_a_signal_after_python_has_given_up_its_handlers():
    status, err = ended("signal.signal(2, signal.SIG_DFL); os.kill(os.getpid(), 2)")
    assert (status, err) == (130, "")


def test_the_system_takes_memory_back():
    status, err = ended("os.kill(os.getpid(), signal.SIGKILL)")
    assert status == 2 and "for want of memory" in err and err.count("\n") == 1


def test_no_end():
    status, err = ended("time.sleep(60)", "--limit-time", "1.5")
    assert status == 2
    assert err == "error: not done after 1.5 s; give it more with --limit-time\n"


def test_no_end_and_no_answer():
    busy = "[signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; time.sleep(60)"
    status, err = ended(busy, "--limit-time", "0.5")
    assert status == 2 and "not done after 0.5 s" in err


def test_too_much_memory():
    status, err = ended("bytearray(1 << 30)", "--limit-memory", "0.5")
    assert status == 2 and "there is not enough memory" in err and err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_child(number):
    process = start("print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout.readline() == "started\n"
    child = int(process.stdout.readline())
    assert child != process.pid
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "")
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_child_that_crashes_because_of_a_signal(number):
    """As C++ does with an exception where it expects none."""
    process = start(
        f"signal.signal({number:d}, lambda *_: os.abort()); print(flush=True); time.sleep(60)"
    )
    assert process.stdout.readline() == "started\n" and process.stdout.readline() == "\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "")


def test_the_child_ends_with_its_parent():
    process = start("print(os.getpid(), flush=True); time.sleep(60)")
    process.stdout.readline()
    child = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=60)
    for _ in range(200):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the child is still there")


@pytest.mark.parametrize("option", ["--limit-time", "--limit-memory"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "much"])
def test_limits_that_are_none(option, value):
    process = start("pass", option, value)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "not a number above 0" in err


def test_llvm_ends_its_process_by_itself():
    """As it does where it cannot write."""
    status, err = ended("print('LLVM ERROR: IO', file=sys.stderr, flush=True); os._exit(1)")
    assert status == 2
    assert err.startswith("LLVM ERROR: IO\nerror: the compiler gave up; ") and err.count("\n") == 2


def test_no_memory_for_a_thread():
    status, err = ended('raise RuntimeError("can\'t allocate lock")')
    assert status == 2 and err.startswith("error: there is not enough memory; ")
    assert "report" not in err


@pytest.mark.parametrize("verb", ["compile", "verify", "analyze", "prune", "tune", "benchmark"])
def test_verbs_that_compile_have_limits(verb):
    program = """
import importlib, os, signal, sys
from tvm_sparse.cli import main
for name in ("compile", "verify", "analyze", "prune", "tune", "benchmark"):
    module = importlib.import_module(f"tvm_sparse.cli.{name}")
    module.run = lambda options: os.kill(os.getpid(), signal.SIGSEGV)
raise SystemExit(main.main())
"""
    words = {"compile": ["-o", "m.so"], "verify": ["m.so"], "prune": ["-o", "p.onnx"]}
    words["prune"] += ["--sparsity", "0.9"]
    command = [sys.executable, "-c", program, verb, "m.onnx", *words.get(verb, [])]
    command += ["--limit-time", "90", "--limit-memory", "3.5"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "crashed (SIGSEGV); if it needed more than 3.5 GB" in result.stderr

"""Processes that we start end with us, and run nothing that lies in the current folder."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tvm_sparse.runtime.isolated import IsolatedProcess, ProcessDied

# A process for each way of ours to start one; they are idle, busy and stopped when it is killed.
PARENT = """
import os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from tvm_sparse.bench.peers import PeerProcess
from tvm_sparse.runtime.isolated import IsolatedProcess

peer = PeerProcess("onnxruntime")
peer.call("memory")
workers = [IsolatedProcess("served") for _ in range(2)]
# A thread that ends is the parent of none of them.
with ThreadPoolExecutor(2) as executor:
    pids = list(executor.map(lambda worker: worker.call("pid", 60)["pid"], workers))
time.sleep(0.2)
assert [worker.call("pid", 60)["pid"] for worker in workers] == pids
busy = threading.Thread(target=workers[0].call, args=("sleep", 100), daemon=True)
busy.start()
time.sleep(0.2)
print(peer._process.pid, *pids, flush=True)
time.sleep(100)
"""

SERVED = """
import os, time
from tvm_sparse.runtime.isolated import serve

class Commands:
    def pid(self):
        return {"pid": os.getpid()}

    def sleep(self):
        time.sleep(100)

serve(Commands())
"""


@pytest.fixture
def environment(tmp_path):
    (tmp_path / "served.py").write_text(SERVED)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "gone"


def test_they_end_with_the_parent_even_if_they_are_stopped(environment):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert [state(pid) for pid in pids] == ["T", "S", "S"]
        parent.kill()
    end = time.monotonic() + 60
    while not all(state(pid) in ("gone", "Z", "X") for pid in pids):
        assert time.monotonic() < end, [state(pid) for pid in pids]
        time.sleep(0.02)


def test_one_that_is_ended_before_its_start_does_not_start(tmp_path):
    process = IsolatedProcess("no.such.module")
    process.kill()
    with pytest.raises(ProcessDied, match="ended"):
        process.call("anything", 1)


def test_one_that_is_ended_while_it_starts(environment, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    with IsolatedProcess("served") as process:
        ends = []

        def call():
            try:
                process.call("sleep", 100)
            except ProcessDied as error:
                ends.append(str(error))

        thread = threading.Thread(target=call)
        thread.start()
        process.kill()
        thread.join()
        assert ends


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """Make the current folder one whose files must not be run; returns what did run."""
    folder, ran = tmp_path / "current", tmp_path / "ran"
    for module in (
        "json",
        "numpy",
        "onnx",
        "onnxruntime",
        "signal",
        "tvm",
        "ziglang",
        "sitecustomize",
    ):
        path = folder / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(ran)!r}, 'a').write('{module} ')\n")
    python = folder / ".peers/openvino/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho peer >> {ran}\n")
    python.chmod(0o755)
    monkeypatch.chdir(folder)
    return lambda: ran.read_text() if ran.exists() else ""


@pytest.mark.parametrize(
    "code",
    [
        "from tvm_sparse.runtime.isolated import IsolatedProcess\n"
        "IsolatedProcess('tvm_sparse.tuning.worker').call('ping', 60)",
        "from tvm_sparse.bench.peers import PeerProcess\n"
        "PeerProcess('onnxruntime').call('memory')\n"
        "try: PeerProcess('openvino').call('memory')\n"
        "except Exception as error: assert 'TVM_SPARSE_PEERS' in str(error)",
        "import subprocess\n"
        "from tvm_sparse.runtime.linking import link_command\n"
        "try: command = link_command('aarch64', 'zig')\n"
        "except Exception: sys.exit()\n"
        "subprocess.run([*command, '--version'], check=True, capture_output=True)",
    ],
    ids=["workers", "engines", "linker"],
)
def test_nothing_of_the_current_folder_runs(trap, code):
    subprocess.run([sys.executable, "-P", "-c", f"import sys\n{code}"], check=True)
    assert trap() == ""


def test_python_m_runs_nothing_of_the_current_folder(trap):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "tvm_sparse", "targets"]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert set(trap().split()) <= {"sitecustomize"}  # Python itself imports this one

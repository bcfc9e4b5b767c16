"""Nothing leaves the machine: compiling, verifying and running open no connection."""

import os
import shutil
import subprocess
import sys

import pytest

from tvm_sparse.testing.models import write_mlp

PROGRAM = """
import sys
from tvm_sparse.cli import main
model, library, x = sys.argv[1:]
shape = ["--shape", "x=1,20,32"]
assert main.main(["compile", model, *shape, "-o", library]) == 0
assert main.main(["verify", model, library]) == 0
import numpy as np, tvm_sparse, time
tvm_sparse.load(library).run([np.zeros((1, 20, 32), "float32")])
time.sleep(2)  # telemetry is sent after a while
"""


def works(command):
    """Return whether a tool is installed and permitted here."""
    return (
        shutil.which(command[0]) is not None
        and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    )


@pytest.fixture
def run(tmp_path):
    """Run the program under a tool, with a home folder of its own; returns what it left there."""
    model = write_mlp(tmp_path / "mlp.onnx")
    home = tmp_path / "home"
    home.mkdir()

    def under(command):
        variables = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
        variables |= {"HOME": str(home), "XDG_CACHE_HOME": str(home), "TMPDIR": str(home)}
        arguments = [sys.executable, "-c", PROGRAM, model, tmp_path / "mlp.so", "x"]
        subprocess.run([*command, *arguments], check=True, env=variables, capture_output=True)
        return [path for path in home.rglob("*") if path.is_file()]

    return under


def test_no_connection_is_opened(run, tmp_path):
    trace = tmp_path / "trace"
    tool = ["strace", "-f", "-qq", "-e", "trace=%network", "-o", str(trace)]
    if not works(tool):
        pytest.skip("strace is not installed, or not permitted here")
    run(tool)
    # The name service of the system may ask its own daemon, by a socket of this machine.
    opened = [line for line in trace.read_text().splitlines() if "_INET" in line]
    assert opened == []


def test_it_works_without_any_network_and_notes_nothing(run):
    tool = ["unshare", "--net"]
    if not works(tool):
        tool = ["unshare", "--net", "--map-root-user"]
    if not works(tool):
        pytest.skip("a network of its own is not permitted here")
    assert run(tool) == []

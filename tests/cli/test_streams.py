"""Standard streams that are closed, full or without a reader, and names made for terminals."""

import re
import subprocess
import sys

import numpy as np
import pytest
from onnx.helper import make_node

from tvm_sparse.cli import streams
from tvm_sparse.errors import printable
from tvm_sparse.testing.models import write_onnx

NAMES = ["fc[relu]", "fc[/b]", "[red]fc", ":smile:", "fc\x1b]0;title\x07", "fc\u202eabc", "\x9b1m"]


def shell(command, **options):
    """Run the command line in a shell; ``ts`` stands for it."""
    program = f'"{sys.executable}" -m tvm_sparse'
    command = re.sub(r"\bts ", f"{program} ", command)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, **options
    )


def test_nobody_reads():
    result = shell("ts targets | true")
    assert (result.returncode, result.stderr) == (streams.BROKEN_PIPE, "")


def test_a_full_disk():
    result = shell("ts targets --json > /dev/full")
    assert result.returncode == 2
    assert result.stderr == "error: standard output: cannot be written: No space left on device\n"


def test_closed_streams(model, x, tmp_path):
    compiled = shell(f"ts compile {model} --shape x=1,20,32 -o {tmp_path}/a.so <&- >&- 2>&-")
    assert compiled.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.so", "x.npy"]
    run = shell(f"ts run {tmp_path}/a.so --input x={x} -o {tmp_path}/y.npz <&- >&- 2>&-")
    assert run.returncode == 0
    with np.load(tmp_path / "y.npz") as found:
        assert [*found] == ["y"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are_but_for_control_characters(name, call, tmp_path):
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal((64, 64)).astype("float32") for i in range(2)}
    nodes = [
        make_node("MatMul", ["x", "w0"], ["h"], name),
        make_node("MatMul", ["h", "w1"], ["y"], "b"),
    ]
    write_onnx(tmp_path / "a.onnx", nodes, {"x": [3, 64]}, ["y"], weights)
    status, out, err = call("prune", "a.onnx", "-o", "b.onnx", "--sparsity", "0.5")
    assert (status, err) == (0, "")
    assert printable(name) in out
    assert out.replace("\n", "").isprintable()


def test_names_in_errors(call, tmp_path):
    (tmp_path / "a\x1b[1m").mkdir()
    status, out, err = call("compile", "a\x1b[1m", "-o", "b.so")
    assert (status, out) == (2, "")
    assert err == "error: a\\x1b[1m/model.onnx: there is no such file\n"
    status, out, err = call("compile", "\udcff.onnx", "-o", "b.so")
    assert (status, out) == (2, "")
    assert err == "error: \\udcff.onnx: there is no such file\n"


def test_what_cannot_be_printed_is_escaped(capsys):
    streams.say("a[b]\x1b[1m\u202e\r\n\udcff")
    assert capsys.readouterr().out == "a[b]\\x1b[1m\\u202e\\r\n\\udcff\n"

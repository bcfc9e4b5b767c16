"""`compile` and `verify` compare a library with ONNX Runtime."""

import json

import numpy as np
import pytest
from onnx.helper import make_node

from tvm_sparse.cli import main
from tvm_sparse.testing.models import write_mlp, write_onnx
from tvm_sparse.verification import verify
from tvm_sparse.verification.comparison import Difference

SHAPE = ["--shape", "x=1,20,32"]


def test_compile_verifies(call, model):
    arguments = [*SHAPE, "-o", "a.so"]
    assert "verified against ONNX Runtime" in call("compile", model, *arguments)[1]
    record = json.loads(call("compile", model, *arguments, "--json")[1])
    (difference,) = record["verification"]["differences"]
    assert difference["output"] == "y" and difference["share"] < 1e-5
    assert "verified" not in call("compile", model, *arguments, "--no-verify")[1]
    assert (
        json.loads(call("compile", model, *arguments, "--no-verify", "--json")[1])["verification"]
        is None
    )


def test_verify(call, model, library, x, tmp_path):
    status, out, err = call("verify", model, library)
    assert (status, err) == (0, "")
    assert out.startswith("verified against ONNX Runtime")
    np.savez(tmp_path / "x.npz", x=np.load(x))
    record = json.loads(call("verify", model, library, "--calibration", "x.npz", "--json")[1])
    assert record["differences"][0]["share"] < 1e-5


def test_another_model(fails, library, tmp_path):
    node = make_node("Relu", ["x"], ["z"])
    other = write_onnx(tmp_path / "o.onnx", [node], {"x": [1, 20, 32]}, ["z"], {})
    assert "compiled from another model" in fails("verify", other, library)


def test_a_library_that_differs(fails, library, tmp_path):
    error = fails("verify", write_mlp(tmp_path / "other.onnx", density=0.5), library)
    assert "output 'y' differs from ONNX Runtime" in error
    assert "please report it" in error


def test_nothing_is_written_if_the_outputs_differ(fails, model, tmp_path, monkeypatch):
    wrong = Difference("y", 0.5, 1e-3)
    monkeypatch.setattr(verify.Reference, "compare", lambda *_, **__: [wrong])
    old = tmp_path / "a.so"
    old.write_bytes(b"old")
    assert "output 'y' differs" in fails(
        "compile", model, *SHAPE, "-o", "a.so", "--fallback", "off"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.so"]
    assert old.read_bytes() == b"old"
    assert main.main(["compile", str(model), *SHAPE, "-o", str(old), "--no-verify"]) == 0


@pytest.mark.parametrize("content", [b"", b"PK no zip", None])
def test_calibration_that_cannot_be_read(fails, model, library, tmp_path, content):
    if content is not None:
        (tmp_path / "c.npz").write_bytes(content)
    assert "c.npz" in fails("verify", model, library, "--calibration", "c.npz")
    assert "c.npz" in fails("compile", model, *SHAPE, "-o", "a.so", "--calibration", "c.npz")

"""The program that compiles timm's architectures; another one stands for PyTorch's exporter."""

import importlib
import json
import sys

import numpy as np
import pytest
from onnx.helper import make_node

from tvm_sparse.testing.models import write_onnx

_EXPORTER = """
import json, shutil, sys
if sys.argv[1] == "list":
    models = [{"name": name, "shape": [1, 3, 8, 8]} for name in ("net", "odd")]
    print("a warning", json.dumps({"version": "1.0", "models": models}), sep=chr(10))
elif sys.argv[2] == "odd":
    raise SystemExit("no such operator")
else:
    shutil.copy(MODEL, sys.argv[3])
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((8, 3, 3, 3)).astype("float32")}
    nodes = [make_node("Conv", ["x", "w"], ["y"])]
    model = write_onnx(tmp_path / "net.onnx", nodes, {"x": [1, 3, 8, 8]}, ["y"], weights)
    exporter = tmp_path / "exporter.py"
    exporter.write_text(f"MODEL = {str(model)!r}\n{_EXPORTER}")
    program = importlib.import_module("architectures")
    monkeypatch.setattr(program, "EXPORTER", exporter)
    return program


def run(program, monkeypatch, tmp_path, *arguments):
    record = tmp_path / "record.json"
    options = ["--rounds", "0", "--threads", "1", "--cache", str(tmp_path / "cache")]
    command = ["architectures.py", *arguments, *options, "--json", str(record)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == 1
    return json.loads(record.read_text())["models"]


def test_a_model_is_exported_pruned_and_compared(program, monkeypatch, tmp_path):
    found = run(program, monkeypatch, tmp_path)
    assert found["net"]["verdict"] == ""
    assert found["net"]["check"]["difference"] < 1e-5
    assert "no such operator" in found["odd"]["verdict"]
    assert (tmp_path / "cache" / "files" / "timm==1.0" / "net.onnx").exists()


def test_a_name_that_timm_does_not_know(program, monkeypatch, tmp_path):
    with pytest.raises(program.InputError, match="'other'; the models are net, odd"):
        run(program, monkeypatch, tmp_path, "other")

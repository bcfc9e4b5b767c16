"""No verb replaces what it reads, nor anything that is not a regular file."""

import os
import shutil

import onnx
import pytest

SHAPE = ["--shape", "x=1,20,32"]


@pytest.fixture
def files(model, library, x, tmp_path):
    """A model whose weights lie beside it, in a folder; a library; an input; records; a link."""
    (tmp_path / "folder").mkdir()
    onnx.save(onnx.load(model), tmp_path / "folder" / "model.onnx", save_as_external_data=True,
              location="w.data", size_threshold=0)  # fmt: skip
    shutil.copy(library, tmp_path / "l.so")
    (tmp_path / "r.jsonl").write_text("")
    (tmp_path / "c.npz").write_bytes(b"")
    (tmp_path / "link").symlink_to("folder/model.onnx")
    (tmp_path / "l2.so").hardlink_to(tmp_path / "l.so")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


VERBS = {
    "compile": [
        "compile",
        "folder",
        *SHAPE,
        "--records",
        "r.jsonl",
        "--calibration",
        "c.npz",
        "-o",
    ],
    "prune": ["prune", "folder/model.onnx", "--sparsity", "0.5", "-o"],
    "quantize": ["quantize", "folder/model.onnx", "--calibration", "c.npz", "-o"],
    "analyze": ["analyze", "folder/model.onnx", *SHAPE, "--records", "r.jsonl", "--html"],
    "run": ["run", "l.so", "--input", "x=x.npy", "-o"],
    "benchmark": ["benchmark", "folder", *SHAPE, "--rounds", "1", "--json"],
    "tune": ["tune", "folder", *SHAPE, "--trials", "1", "--records"],
}
READ = {
    "compile": ["folder/model.onnx", "folder/w.data", "link", "r.jsonl", "c.npz"],
    "prune": ["folder/model.onnx", "folder/w.data", "link"],
    "quantize": ["folder/model.onnx", "folder/w.data", "link", "c.npz"],
    "analyze": ["folder/model.onnx", "folder/w.data", "link", "r.jsonl"],
    "run": ["l.so", "l2.so", "x.npy"],
    "benchmark": ["folder/model.onnx", "folder/w.data", "link"],
    "tune": ["folder/model.onnx", "folder/w.data", "link"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_refuses_to_replace(verb, fails, files):
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    for name in READ[verb]:
        assert "is read; choose another name" in fails(*VERBS[verb], name)
    for name, why in (("pipe", "a device or a pipe"), ("folder", "it is a folder")):
        assert why in fails(*VERBS[verb], name)
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before


def test_a_drawing_does_not_replace_the_model(fails, files):
    (files / "a.png").symlink_to("folder/model.onnx")
    message = fails("tune", "folder", *SHAPE, "--plot", "a.png", "--trials", "1")
    assert "is read; choose another name" in message


def test_records_are_not_added_to_a_file_of_another_kind(fails, files):
    (files / "notes.txt").write_text("buy milk\n")
    message = fails("tune", "folder", *SHAPE, "--trials", "1", "--records", "notes.txt")
    assert "notes.txt: holds no tuning records" in message
    assert (files / "notes.txt").read_text() == "buy milk\n"

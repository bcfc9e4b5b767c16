"""The files of a model: its own, and those with its weights."""

import onnx

from tvm_sparse.frontends.model_files import ModelFiles
from tvm_sparse.testing.models import write_mlp


def test_files_of_a_model(tmp_path):
    path = write_mlp(
        tmp_path / "model.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    expected = [path, tmp_path / "w"]
    assert [*ModelFiles(path)] == [*ModelFiles(path)] == [*ModelFiles(tmp_path)] == expected


def test_weights_in_the_file_itself_and_other_weights_later(tmp_path):
    path = write_mlp(tmp_path / "a.onnx")
    files = ModelFiles(path)
    assert [*files] == [path]
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="v", size_threshold=0)
    assert [*files] == [path, tmp_path / "v"]


def test_what_is_no_model(tmp_path):
    (tmp_path / "a.onnx").write_text("hello")
    assert [*ModelFiles(tmp_path / "a.onnx")] == [tmp_path / "a.onnx"]
    assert [*ModelFiles(tmp_path / "no.onnx")] == [tmp_path / "no.onnx"]

"""Libraries survive a round trip, and a wrong file is refused with its reason."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import tvm_sparse
from tvm_sparse.errors import LibraryError
from tvm_sparse.runtime.library import LibraryInfo
from tvm_sparse.testing.models import onnxruntime_outputs

SHAPE = (1, 20, 32)


class TestLibrary:
    def test_needs_no_model(self, model, saved, x, tmp_path):
        moved = tmp_path / "moved.so"
        moved.write_bytes(saved.read_bytes())
        script = (
            "import sys, numpy as np, tvm_sparse\n"
            "x = np.load(sys.argv[2]); y = tvm_sparse.load(sys.argv[1], threads=2).run([x])['y']\n"
            "np.save(sys.argv[2], y)\n"
        )
        np.save(tmp_path / "x.npy", x)
        command = [sys.executable, "-c", script, moved, tmp_path / "x.npy"]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert result.stdout + result.stderr == ""
        expected = onnxruntime_outputs(model, {"x": x})["y"]
        actual = np.load(tmp_path / "x.npy")
        np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())

    def test_saving_prints_nothing_and_leaves_one_file(self, compiled, tmp_path, capfd):
        compiled.save(tmp_path / "a.so")
        assert [path.name for path in tmp_path.iterdir()] == ["a.so"]
        assert capfd.readouterr() == ("", "")

    def test_info_survives_json(self, compiled):
        assert LibraryInfo.from_json(compiled.info.to_json()) == compiled.info

    def test_a_loaded_engine_saves_too(self, loaded, saved, tmp_path):
        loaded.save(tmp_path / "again.so")
        assert (tmp_path / "again.so").read_bytes() == saved.read_bytes()

    def test_not_writable(self, compiled, tmp_path):
        with pytest.raises(LibraryError, match=r"cannot be written: No such file or directory"):
            compiled.save(tmp_path / "no" / "a.so")
        with pytest.raises(LibraryError, match="cannot be written"):
            compiled.save(tmp_path)

    def test_a_failed_save_keeps_the_old_file(self, compiled, tmp_path, monkeypatch):
        path = tmp_path / "a.so"
        path.write_text("old")
        monkeypatch.setenv("CXX", "/bin/false")
        with pytest.raises(LibraryError, match="/bin/false: cannot link"):
            compiled.save(path)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_missing(self, tmp_path):
        with pytest.raises(LibraryError, match="cannot be read: No such file"):
            tvm_sparse.load(tmp_path / "no.so")

    def test_not_a_library(self, model):
        with pytest.raises(LibraryError, match="not a compiled library"):
            tvm_sparse.load(model)

    def test_truncated_anywhere(self, saved, tmp_path):
        whole = saved.read_bytes()
        cut = tmp_path / "cut.so"
        for length in np.linspace(5, len(whole) - 1, 25).astype(int):
            cut.write_bytes(whole[:length])
            with pytest.raises(LibraryError, match="truncated"):
                tvm_sparse.load(cut)

    def test_another_machine(self, saved, tmp_path):
        content = bytearray(saved.read_bytes())
        machine = {62: 183, 183: 62}[content[18]]
        content[18] = machine
        (tmp_path / "other.so").write_bytes(content)
        name = {62: "x86_64", 183: "aarch64"}[machine]
        with pytest.raises(LibraryError, match=f"built for {name}, and this machine is"):
            tvm_sparse.load(tmp_path / "other.so")

    def test_foreign(self, tmp_path):
        source = tmp_path / "foreign.c"
        source.write_text("int answer(void) { return 42; }\n")
        library = tmp_path / "foreign.so"
        subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
        with pytest.raises(LibraryError, match="not a library that tvm-sparse compiled"):
            tvm_sparse.load(library)

    def test_a_processor_that_lacks_something(self, saved, monkeypatch):
        read = LibraryInfo.from_json
        demanding = {"instruction_sets": ("avx2", "avx1024"), "cpu": "futurelake"}
        monkeypatch.setattr(LibraryInfo, "from_json", lambda text: replace(read(text), **demanding))
        with pytest.raises(LibraryError, match=r"built for futurelake.*lacks avx1024.*native"):
            tvm_sparse.load(saved)

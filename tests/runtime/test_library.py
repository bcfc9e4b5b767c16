"""Libraries survive a round trip, and a wrong file is refused with its reason."""

import errno
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm

import tvm_sparse
from tvm_sparse.errors import InputError, LibraryError
from tvm_sparse.runtime import seal, writing
from tvm_sparse.runtime.info import LibraryInfo
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

    def test_saving_after_a_run_and_loading_that_prints_nothing(self, compiled, x, tmp_path, capfd):
        compiled.run([x])
        standard_error = os.fstat(2)
        compiled.save(tmp_path / "a.so")
        tvm_sparse.load(tmp_path / "a.so")
        assert capfd.readouterr() == ("", "")
        assert os.path.samestat(os.fstat(2), standard_error)

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
        built = tmp_path / "foreign.so"
        subprocess.run(["cc", "-shared", "-fPIC", source, "-o", built], check=True)
        with pytest.raises(LibraryError, match="not a library that this version of tvm-sparse"):
            tvm_sparse.load(built)

    def test_a_foreign_library_runs_no_code(self, tmp_path):
        source, built = tmp_path / "foreign.c", tmp_path / "foreign.so"
        source.write_text(
            "#include <unistd.h>\n__attribute__((constructor)) void run(void) { _exit(42); }\n"
        )
        subprocess.run(["cc", "-shared", "-fPIC", source, "-o", built], check=True)
        with pytest.raises(LibraryError):
            tvm_sparse.load(built)

    def test_the_name_does_not_decide_how_it_is_loaded(self, saved, x, tmp_path):
        expected = tvm_sparse.load(saved, threads=1).run([x])["y"]
        for name in ("a", "a.o", "a.tar", "a.so.1", "a.onnx", "a.ll", 'a";.so'):
            (tmp_path / name).write_bytes(saved.read_bytes())
            actual = tvm_sparse.load(tmp_path / name, threads=1).run([x])["y"]
            np.testing.assert_array_equal(actual, expected)
            assert [path.name for path in tmp_path.iterdir()] == [name]
            (tmp_path / name).unlink()

    @pytest.mark.parametrize(
        ("demanding", "message"),
        [
            (
                {"instruction_sets": ("avx2", "avx1024"), "cpu": "futurelake"},
                r"built for futurelake.*lacks avx1024.*native",
            ),
            ({"version": "0.0.9"}, r"built with tvm-sparse 0\.0\.9, and this is tvm-sparse"),
            ({"tvm_version": "0.26.0"}, r"built with TVM 0\.26\.0, and this is TVM"),
        ],
    )
    def test_another_processor_or_version(self, demanding, message, compiled, saved, tmp_path):
        resealed(saved, tmp_path / "a.so", replace(compiled.info, **demanding).to_json())
        with pytest.raises(LibraryError, match=message):
            tvm_sparse.load(tmp_path / "a.so")

    def test_another_build_of_the_same_versions(self, compiled, saved, tmp_path):
        info = replace(compiled.info, tvm_version=f"{tvm.__version__}.post9", version="0.1.0+local")
        resealed(saved, tmp_path / "a.so", info.to_json())
        assert tvm_sparse.load(tmp_path / "a.so").info == info

    @pytest.mark.parametrize(
        "text", ["", "null", "[]", "{}", "hello", '{"inputs": [1]}', "{" * 9999, "[" * 99_999]
    )
    def test_a_description_of_another_kind(self, text, saved, tmp_path):
        resealed(saved, tmp_path / "a.so", text)
        with pytest.raises(LibraryError, match="of another version; compile the model again"):
            tvm_sparse.load(tmp_path / "a.so")

    @pytest.mark.parametrize(
        "fields",
        [
            {"instruction_sets": ["avx", []]},
            {"instruction_sets": [float("inf")]},
            {"inputs": [{"name": "x", "shape": [1, 2.5], "dtype": "float32"}]},
            {"inputs": [{"name": ["x"], "shape": [1, 2], "dtype": "float32"}]},
            {"outputs": "yz"},
            {"constant_outputs": [{}]},
            {"cpu": None},
            {"version": 3},
            {"threads": True},
            {"threads": "2"},
            {"precision": "float31"},
            {"inputs": [{"name": "x", "shape": [1], "dtype": "flo~at32"}]},
            {"inputs": [{"name": "x", "shape": [1], "dtype": None}]},
            {"fallbacks": [{"nodes": [1], "operator": "a", "reason": "b"}]},
            {"no_such_field": 1},
        ],
        ids=str,
    )
    def test_a_field_of_another_type(self, fields, compiled, saved, tmp_path):
        description = json.loads(compiled.info.to_json()) | fields
        resealed(saved, tmp_path / "a.so", json.dumps(description))
        with pytest.raises(LibraryError, match="of another version; compile the model again"):
            tvm_sparse.load(tmp_path / "a.so")

    def test_a_description_of_other_outputs(self, compiled, saved, x, tmp_path):
        info = replace(compiled.info, outputs=())
        resealed(saved, tmp_path / "a.so", info.to_json())
        with pytest.raises(LibraryError, match="names 0 outputs, and its code computes 1"):
            tvm_sparse.load(tmp_path / "a.so", threads=2).run([x])

    def test_a_description_without_inputs(self, compiled, saved, x, tmp_path):
        resealed(saved, tmp_path / "a.so", replace(compiled.info, inputs=()).to_json())
        with pytest.raises(InputError, match="unknown input 'x': the model has no inputs"):
            tvm_sparse.load(tmp_path / "a.so", threads=2).run({"x": x})

    def test_devices_and_pipes(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
            with pytest.raises(LibraryError, match="it is a folder, a device or a pipe"):
                tvm_sparse.load(path)


class TestDamage:
    """Every damage is one error: the file is not loaded, so that it cannot crash the process."""

    def test_zeros_at_the_end(self, saved, tmp_path):
        whole, path = saved.read_bytes(), tmp_path / "a.so"
        for share in (0.0, 0.1, 0.5, 0.9, 0.9999):
            kept = int(len(whole) * share)
            path.write_bytes(whole[:kept] + bytes(len(whole) - kept))
            with pytest.raises(LibraryError, match=r"a\.so: "):
                tvm_sparse.load(path)

    def test_single_bits_and_runs(self, saved, tmp_path):
        whole, path, rng = saved.read_bytes(), tmp_path / "a.so", np.random.default_rng(0)
        places = [*range(64), *range(len(whole) - 32, len(whole))]
        places += rng.integers(len(whole), size=100).tolist()
        for place in places:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            with pytest.raises(LibraryError, match=r"a\.so: "):
                tvm_sparse.load(path)

    def test_more_at_the_end(self, saved, tmp_path):
        for more in (b"\0", b"x" * 4096, saved.read_bytes()[-24:], saved.read_bytes()):
            (tmp_path / "a.so").write_bytes(saved.read_bytes() + more)
            with pytest.raises(LibraryError, match=r"truncated, or not a library|damaged"):
                tvm_sparse.load(tmp_path / "a.so")


class TestFiles:
    def test_the_model_is_not_replaced(self, model, tmp_path):
        copy, link = tmp_path / "m.onnx", tmp_path / "a.so"
        copy.write_bytes(model.read_bytes())
        link.symlink_to(copy)
        engine = tvm_sparse.compile(copy, {"x": SHAPE}, threads=1)
        for name in (copy, link, tmp_path / ".." / tmp_path.name / "m.onnx"):
            with pytest.raises(LibraryError, match="is read; choose another name"):
                engine.save(name)
        assert copy.read_bytes() == model.read_bytes()

    def test_a_loaded_library_is_not_replaced_by_itself(self, saved, tmp_path):
        (tmp_path / "a.so").write_bytes(saved.read_bytes())
        with pytest.raises(LibraryError, match="is read; choose another name"):
            tvm_sparse.load(tmp_path / "a.so").save(tmp_path / "a.so")
        assert (tmp_path / "a.so").read_bytes() == saved.read_bytes()

    @pytest.mark.parametrize(
        "name", ['a".so', "a\\b.so", "a b.so", "-o.so", "$(id).so", 'a";.text;.so']
    )
    def test_no_name_reaches_the_assembler(self, name, compiled, x, tmp_path):
        (tmp_path / name).mkdir()
        path = tmp_path / name / name
        compiled.save(path)
        assert [*path.parent.iterdir()] == [path]
        np.testing.assert_array_equal(
            tvm_sparse.load(path, threads=1).run([x])["y"], compiled.run([x])["y"]
        )

    @pytest.mark.parametrize("limit", [0, 1000, 30_000])
    def test_a_limit_on_the_size_of_files(self, limit, compiled, tmp_path):
        path = tmp_path / "a.so"
        path.write_text("old")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(LibraryError, match=r"File too large|cannot link"):
                compiled.save(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]

    def test_under_a_limit_that_suffices(self, compiled, x, tmp_path):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, before[1]))
        try:
            compiled.save(tmp_path / "a.so")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        np.testing.assert_array_equal(
            tvm_sparse.load(tmp_path / "a.so", threads=1).run([x])["y"], compiled.run([x])["y"]
        )

    def test_a_full_disk(self, compiled, tmp_path, monkeypatch):
        def full(*arguments, **options):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        for module, name in ((Path, "write_bytes"), (writing, "add_seal"), (os, "fsync")):
            with monkeypatch.context() as patch:
                patch.setattr(module, name, full)
                with pytest.raises(LibraryError, match="cannot be written: No space left"):
                    compiled.save(tmp_path / "a.so")
            assert not [*tmp_path.iterdir()]


def resealed(source, path, description):
    """Write a library with another description."""
    content = source.read_bytes()
    length, *_ = seal._FOOTER.unpack(content[-seal._FOOTER.size :])
    path.write_bytes(content[:length])
    seal.add_seal(path, description)

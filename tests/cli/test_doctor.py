"""What the machine can do, and completion in shells."""

import json
import shutil
import subprocess

import pytest

from tvm_sparse.cli import completion, main
from tvm_sparse.errors import LibraryError, TargetError
from tvm_sparse.report import doctor


class TestDoctor:
    def test_one_screen(self, call):
        status, out, err = call("doctor")
        assert (status, err) == (0, "")
        assert len(out.splitlines()) < 24
        for what in ("versions", "processor", "cores", "linker", "float16", "packages"):
            assert what in out

    def test_json(self, call):
        found = json.loads(call("doctor", "--json")[1])
        assert {line["state"] for line in found} <= {"ok", "note", "missing"}

    def test_what_is_missing_comes_with_advice(self, call, monkeypatch):
        def no_linker(machine):
            raise LibraryError("no linker for x86_64")

        def no_profile():
            raise TargetError("no profile for processor 'i486'")

        monkeypatch.setattr(doctor, "link_command", no_linker)
        monkeypatch.setattr(doctor, "native", no_profile)
        status, out, _ = call("doctor")
        assert status == 0
        lines = out.splitlines()
        for what in ("linker", "processor"):
            (number,) = [i for i, line in enumerate(lines) if line.startswith(f"! {what}")]
            assert lines[number + 1].strip().startswith("-> ")

    def test_part_of_a_core(self, monkeypatch):
        monkeypatch.setattr(doctor, "cpu_quota", lambda: 1.5)
        monkeypatch.setattr(doctor, "usable_cores", lambda: 2)
        (cores,) = [line for line in doctor.examine() if line.what == "cores"]
        assert "a quota of 1.5 CPUs" in cores.found
        assert cores.state == "note"
        monkeypatch.setattr(doctor, "cpu_quota", lambda: 2.0)
        (cores,) = [line for line in doctor.examine() if line.what == "cores"]
        assert cores.state == "ok"


class TestCompletion:
    def complete(self, *words):
        """Return what bash offers for the last of the words."""
        script = completion.script("bash", main._parser()._subparsers._group_actions[0].choices)
        line = " ".join(f"'{word}'" for word in words)
        script += (
            f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _tvm_sparse\n"
            'printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True)
        return done.stdout.split()

    def test_verbs_options_and_files(self, tmp_path, monkeypatch):
        (tmp_path / "model.onnx").touch()
        monkeypatch.chdir(tmp_path)
        assert self.complete("tvm-sparse", "com") == ["compile", "completion"]
        assert self.complete("tvm-sparse", "compile", "--colu") == ["--columns"]
        assert self.complete("tvm-sparse", "compile", "mod") == ["model.onnx"]

    @pytest.mark.parametrize("shell", completion.SHELLS)
    def test_every_shell_can_read_its_script(self, call, shell, tmp_path):
        status, out, err = call("completion", shell)
        assert (status, err) == (0, "")
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        (tmp_path / "script").write_text(out)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)

"""Files are replaced whole or not at all, and what was read is never replaced."""

import errno
import os
import resource
import stat
import subprocess
import sys

import numpy as np
import pytest

from tvm_sparse import files
from tvm_sparse.errors import LibraryError, OutputError


def write(path, text="new", **options):
    with files.replacing(path, **options) as temporary:
        temporary.write_text(text)


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.txt"
    path.write_text("old")
    return path


class TestReplaces:
    def test_a_new_file_and_an_old_one(self, old, tmp_path):
        write(old)
        write(tmp_path / "fresh.txt")
        assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
            "old.txt": "new",
            "fresh.txt": "new",
        }

    def test_permissions_stay(self, old):
        old.chmod(0o640)
        write(old)
        assert stat.S_IMODE(old.stat().st_mode) == 0o640

    def test_a_link_stays_and_its_file_is_replaced(self, old, tmp_path):
        (tmp_path / "folder").mkdir()
        link = tmp_path / "folder" / "link.txt"
        link.symlink_to("../old.txt")
        write(link)
        assert link.is_symlink() and old.read_text() == "new"
        assert [p.name for p in (tmp_path / "folder").iterdir()] == ["link.txt"]

    def test_a_link_to_a_file_that_does_not_exist_yet(self, tmp_path):
        link = tmp_path / "link.txt"
        link.symlink_to("later.txt")
        write(link)
        assert link.is_symlink() and (tmp_path / "later.txt").read_text() == "new"

    def test_in_the_current_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        files.write_json(type(tmp_path)("a.json"), [1])
        assert (tmp_path / "a.json").read_text() == "[\n  1\n]\n"

    @pytest.mark.parametrize("name", ['a";.text "', "-o", "a\\b", "a b\n", "\udcff", "x" * 255])
    def test_the_temporary_name_is_ours_whatever_the_name_is(self, name, tmp_path):
        with files.replacing(tmp_path / f"{name[:250]}.png") as temporary:
            assert temporary.name == "new.png"
            temporary.write_text("new")
        with files.replacing(tmp_path / f"a.{name[:250]}") as temporary:
            assert temporary.name == "new"
            temporary.write_text("new")

    def test_the_file_is_on_the_disk_before_it_has_its_name(self, old, monkeypatch):
        calls = []
        monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(os.fstat(descriptor)))
        write(old)
        assert [stat.S_ISDIR(call.st_mode) for call in calls] == [False, True]
        assert calls[0].st_ino == old.stat().st_ino


class TestRefuses:
    def test_a_file_that_was_read_by_any_name(self, old, tmp_path):
        names = [old, tmp_path / ".." / tmp_path.name / "old.txt", tmp_path / "l", tmp_path / "h"]
        names[2].symlink_to(old)
        names[3].hardlink_to(old)
        for name in names:
            for check in (write, files.check_writable):
                with pytest.raises(LibraryError, match="is read; choose another name"):
                    check(name, error=LibraryError, read=[tmp_path / "gone", old])
        assert old.read_text() == "old"

    def test_folders(self, tmp_path):
        with pytest.raises(OutputError, match="it is a folder"):
            write(tmp_path)

    def test_pipes_and_devices(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", type(tmp_path)("/dev/null"), type(tmp_path)("/dev/full")):
            with pytest.raises(OutputError, match="it is a device or a pipe"):
                write(path)
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)

    def test_names_that_the_system_refuses(self, tmp_path):
        for name, why in (("x" * 300, "too long"), ("a\0b", "null"), ("no/such", "No such file")):
            with pytest.raises(OutputError, match=f"(?s)cannot be written: .*{why}"):
                write(tmp_path / name)
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(OutputError, match="cannot be written"):
            write(tmp_path / "loop")

    @pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everything")
    def test_protected_files(self, old):
        old.chmod(0o444)
        with pytest.raises(OutputError, match="Permission denied"):
            write(old)

    def test_protected_files_of_others(self, old, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
        with pytest.raises(OutputError, match="Permission denied"):
            write(old)


class TestFails:
    @pytest.mark.parametrize("call", ["fsync", "open", "chmod"])
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
    def test_the_old_file_stays(self, call, code, old, monkeypatch):
        def fail(*arguments, **options):
            raise OSError(code, os.strerror(code))

        with (
            monkeypatch.context() as patch,
            pytest.raises(OutputError, match=os.strerror(code)),
            files.replacing(old) as temporary,
        ):
            temporary.write_text("new")
            patch.setattr(os, call, fail)
        assert old.read_text() == "old"

    def test_an_error_while_writing(self, old):
        with pytest.raises(ZeroDivisionError), files.replacing(old) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError
        assert [(p.name, p.read_text()) for p in old.parent.iterdir()] == [("old.txt", "old")]

    def test_a_limit_on_the_size_of_files(self, old):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            with pytest.raises(OutputError, match="cannot be written: File too large"):
                files.write_npz(old, {"x": np.zeros(1000)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [(p.name, p.read_text()) for p in old.parent.iterdir()] == [("old.txt", "old")]


def test_a_full_disk(tmp_path):
    """Every size of a disk that is too small gives one error, and leaves the disk as it was."""
    disk = tmp_path / "disk"
    disk.mkdir()
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from tvm_sparse import files\n"
        "disk = Path(sys.argv[1])\n"
        "(disk / 'a.npz').write_text('old')\n"
        "try: files.write_npz(disk / 'a.npz', {'x': np.zeros(20000)})\n"
        "except files.writing.OutputError as error: print(error)\n"
        "print([(p.name, p.read_text()) for p in disk.iterdir()])\n"
    )
    for pages in (2, 20):
        script = f"mount -t tmpfs -o size={4 * pages}k tmpfs {disk} || exit 77\n"
        script += f'"{sys.executable}" -c "$0" {disk}'
        result = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, code], capture_output=True, text=True
        )
        if result.returncode in (1, 77):
            pytest.skip("no file system can be mounted here")
        assert result.stdout.splitlines() == [
            f"{disk}/a.npz: cannot be written: No space left on device",
            "[('a.npz', 'old')]",
        ]

"""Folders for unfinished files disappear however their process ends; the user's data folder."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tvm_sparse.errors import OutputError
from tvm_sparse.files import data_folder, folders, scratch_folder

WRITER = """
import sys, time
from pathlib import Path
from tvm_sparse.files import folders, replacing
if sys.argv[2] == "alone":
    folders._guard = lambda folder: None
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def killed(tmp_path):
    """Kill a process that writes to a file of this folder."""

    def kill(number, guarded="guarded"):
        command = [sys.executable, "-c", WRITER, tmp_path / "a.txt", guarded]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            assert len(list(tmp_path.iterdir())) == 1
            process.send_signal(number)

    return kill


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_process_that_was_killed(number, killed, tmp_path):
    killed(number)
    end = time.monotonic() + 30
    while list(tmp_path.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_next_process_removes_what_one_without_a_guard_left(killed, tmp_path):
    killed(signal.SIGKILL, "alone")
    (left,) = tmp_path.iterdir()
    with scratch_folder(tmp_path) as folder:
        assert not left.exists()
        assert [*tmp_path.iterdir()] == [folder]
    assert not [*tmp_path.iterdir()]


def test_folders_in_use_and_those_of_others_stay(tmp_path):
    name = f"{folders.PREFIX}abcdefgh"
    others = [f"x{name}", f"{name}.txt", folders.PREFIX, name.upper()]
    for other in others:
        (tmp_path / other).mkdir()
    (tmp_path / name).write_text("a file, which we never make")
    (tmp_path / name.replace("h", "i")).symlink_to(others[0])
    before = sorted(tmp_path.iterdir())
    with scratch_folder(tmp_path) as folder, scratch_folder(tmp_path) as second:
        (folder / "a.txt").write_text("half")
        assert sorted(tmp_path.iterdir()) == sorted([*before, folder, second])
        assert (folder / "a.txt").exists()
    assert sorted(tmp_path.iterdir()) == before


def test_folders_of_other_users_stay(tmp_path, monkeypatch):
    left = tmp_path / f"{folders.PREFIX}abcdefgh"
    left.mkdir()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with scratch_folder(tmp_path):
        assert left.exists()


def test_without_a_shell_there_is_still_a_folder(tmp_path, monkeypatch):
    def no_shell(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "Popen", no_shell)
    with scratch_folder(tmp_path) as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_a_new_folder_that_another_process_takes_for_one_left_over(tmp_path, monkeypatch):
    make, made = tempfile.mkdtemp, []

    def swept_at_once(**options):
        made.append(Path(make(**options)))
        if len(made) == 1:
            made[0].rmdir()
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", swept_at_once)
    with scratch_folder(tmp_path) as folder:
        assert folder == made[1] and folder.is_dir()


def test_a_new_folder_that_another_process_has_locked(tmp_path, monkeypatch):
    make, locks = tempfile.mkdtemp, []

    def locked_at_once(**options):
        folder = make(**options)
        if not locks:
            locks.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
            fcntl.flock(locks[0], fcntl.LOCK_EX)
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", locked_at_once)
    with scratch_folder(tmp_path) as folder:
        assert os.fstat(locks[0]).st_ino != folder.stat().st_ino
    os.close(locks[0])


def test_the_systems_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    with scratch_folder() as folder:
        assert folder.parent == tmp_path
    full = r"cannot be written there: No space left .*TMPDIR"
    with pytest.raises(OutputError, match=full), scratch_folder():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), scratch_folder():
        (tmp_path / "no").read_text()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "no"))
    none = r"no folder for temporary files can be made.*TMPDIR"
    with pytest.raises(OutputError, match=none), scratch_folder():
        pass
    assert not [*tmp_path.iterdir()]


def test_no_process_is_left(tmp_path):
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text().split()
    with scratch_folder(tmp_path):
        assert len(children.read_text().split()) == len(before) + 1
    assert children.read_text().split() == before


class TestDataFolder:
    def test_where_it_is(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", "/home/a")
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert data_folder() == tmp_path / "tvm-sparse"
        for ignored in ("", "relative"):
            monkeypatch.setenv("XDG_DATA_HOME", ignored)
            assert data_folder() == Path("/home/a/.local/share/tvm-sparse")

    def test_a_user_without_a_home(self, monkeypatch):
        def no_home():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        monkeypatch.setattr(Path, "home", no_home)
        with pytest.raises(OutputError, match="set HOME or XDG_DATA_HOME"):
            data_folder()

"""A cache keeps results for other processes, and is never the reason of an error."""

import logging
import os
import stat

import pytest

from tvm_sparse.files import CACHE_VARIABLE, Cache, kernel_cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def look_up(key):
    with kernel_cache() as cache:
        return None if cache is None else cache.get(key)


def keep(key, result):
    with kernel_cache() as cache:
        cache.put(key, result)


def test_what_is_kept_is_found(folder):
    assert look_up("a") is None
    keep("a", b"one")
    keep("b", b"")
    assert look_up("a") == b"one" and look_up("b") == b""
    assert names(folder) == ["a", "b"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: content[:-1] + b"?", lambda _: b""]
)
def test_a_damaged_file_is_not_found_and_is_replaced(folder, damage, caplog):
    keep("a", b"one")
    (folder / "a").write_bytes(damage((folder / "a").read_bytes()))
    with caplog.at_level(logging.DEBUG, "tvm_sparse.cache"):
        assert look_up("a") is None
    assert "damaged" in caplog.text and caplog.records[0].levelno == logging.DEBUG
    keep("a", b"one")
    assert look_up("a") == b"one"


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_can_write_to_is_not_used(folder, mode, caplog):
    keep("a", b"one")
    folder.chmod(mode)
    with caplog.at_level(logging.DEBUG, "tvm_sparse.cache"):
        assert look_up("a") is None
    assert "can write to it" in caplog.text


def test_a_folder_of_another_user_is_not_used(folder, monkeypatch):
    keep("a", b"one")
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert look_up("a") is None


def test_a_link_is_no_folder_and_no_file_of_a_cache(folder, monkeypatch):
    keep("a", b"one")
    (folder / "b").symlink_to(folder / "a")
    assert look_up("b") is None
    (folder.parent / "link").symlink_to(folder)
    monkeypatch.setenv(CACHE_VARIABLE, str(folder.parent / "link"))
    assert look_up("a") is None


def test_what_cannot_be_written_is_not_kept(folder, monkeypatch, caplog):
    keep("a", b"one")

    def full(*_arguments, **_named):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, caplog.at_level(logging.DEBUG, "tvm_sparse.cache"):
        patched.setattr(os, "rename", full)
        keep("b", b"two")
    assert "No space left" in caplog.text
    assert names(folder) == ["a"]
    (folder.parent / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(folder.parent / "file"))
    assert look_up("a") is None


def test_the_oldest_files_are_removed(folder):
    folder.mkdir(mode=0o700)

    def opened():
        return Cache(os.open(folder, os.O_RDONLY), most_bytes=1000)

    for number, key in enumerate("abcd"):
        cache = opened()
        cache.put(key, bytes(200))
        cache.close()
        os.utime(folder / key, (number, number))
    cache = opened()
    assert cache.get("a") == bytes(200)  # now it is the newest one
    cache.put("e", bytes(200))
    cache.close()
    assert names(folder) == ["a", "d", "e"]


def test_the_folder_is_the_users_own_unless_another_is_chosen(tmp_path, monkeypatch):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    keep("a", b"one")
    assert (tmp_path / "caches/tvm-sparse/kernels/a").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    keep("a", b"one")
    assert (tmp_path / ".cache/tvm-sparse/kernels/a").exists()
    monkeypatch.setenv(CACHE_VARIABLE, "off")
    with kernel_cache() as cache:
        assert cache is None

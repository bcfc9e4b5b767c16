"""A folder of results that can be computed again, which processes share.

Each file holds one result and a checksum, and has the name of the key of what the result was
computed from. It is written under another name and then renamed, so that no reader sees a part of
it. Where the folder cannot be used, nothing is found and nothing is kept; the logger
``tvm_sparse.cache`` says why, to those who ask for debug messages.

What is kept may be code, so only the user may be able to write it: a folder that belongs to
another user, or that others can write to, is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger("tvm_sparse.cache")

CACHE_VARIABLE = "TVM_SPARSE_KERNEL_CACHE"
"""The environment variable that names the folder, or is ``off``."""

MOST_BYTES = 500_000_000
"""The files of a cache are no larger together, after the process that wrote the last one."""

_LEFT_PART = 0.8
"""What is left of the largest size when old files are removed, so that this is done rarely."""

_MAGIC = b"tvmsprsk"
_DIGEST_BYTES = 32


class Cache:
    """An open folder of results.

    Parameters
    ----------
    folder : int
        The descriptor of the folder; all files are opened by it, whatever becomes of its path.
    most_bytes : int
        The bytes of all files.
    """

    def __init__(self, folder: int, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._has_written = False

    def get(self, key: str) -> bytes | None:
        """Return the result that is kept for a key, or None; it becomes the newest one."""
        try:
            descriptor = os.open(key, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._folder)
            with os.fdopen(descriptor, "rb") as file:
                content = file.read()
                if not _is_whole(content):
                    _log.debug("%s is damaged, and computed again", key)
                    return None
                with contextlib.suppress(OSError):  # The folder may be for reading only.
                    os.utime(descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.debug("%s cannot be read: %s", key, error)
            return None
        return content[len(_MAGIC) + _DIGEST_BYTES :]

    def put(self, key: str, result: bytes) -> None:
        """Keep a result, if the folder takes it."""
        unfinished = f".{key[:8]}-{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            descriptor = os.open(unfinished, flags, 0o600, dir_fd=self._folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_MAGIC + hashlib.sha256(result).digest() + result)
                os.rename(unfinished, key, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(unfinished, dir_fd=self._folder)
                raise
            self._has_written = True
        except OSError as error:
            _log.debug("%s cannot be kept: %s", key, error)

    def close(self) -> None:
        """Remove the oldest files if all are too large together, and close the folder."""
        try:
            if self._has_written:
                self._remove_oldest()
        except OSError as error:
            _log.debug("old files cannot be removed: %s", error)
        finally:
            os.close(self._folder)

    def _remove_oldest(self) -> None:
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # Another process removes files, too.
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_mtime_ns, status.st_size, entry.name))
        size = sum(size for _, size, _ in found)
        if size <= self._most_bytes:
            return
        for _, length, name in sorted(found):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._folder)
            size -= length
            if size <= _LEFT_PART * self._most_bytes:
                return


@contextlib.contextmanager
def kernel_cache() -> Iterator[Cache | None]:
    """Open the cache of compiled kernels; None if there is none, or none that can be trusted.

    It is the folder in the environment variable `CACHE_VARIABLE`, or by default ``tvm-sparse`` in
    the user's folder for caches.
    """
    folder = _folder()
    descriptor = None if folder is None else _opened(folder)
    if descriptor is None:
        yield None
        return
    cache = Cache(descriptor)
    try:
        yield cache
    finally:
        cache.close()


def _folder() -> Path | None:
    chosen = os.environ.get(CACHE_VARIABLE, "")
    if chosen == "off":
        return None
    if chosen:
        return Path(chosen).absolute()
    # The XDG specification wants relative paths ignored.
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not caches.is_absolute():
        try:
            caches = Path.home() / ".cache"
        except RuntimeError as error:
            _log.debug("no folder for caches: %s", error)
            return None
    return caches / "tvm-sparse" / "kernels"


def _opened(folder: Path) -> int | None:
    """Return a descriptor of a folder of this user's own, which is made if it is missing."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (OSError, ValueError) as error:
        _log.debug("no kernels are kept: %s", error)
        return None
    status = os.fstat(descriptor)
    if status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return descriptor
    os.close(descriptor)
    _log.debug("%s is not used: another user owns it or can write to it", folder)
    return None


def _is_whole(content: bytes) -> bool:
    head = len(_MAGIC) + _DIGEST_BYTES
    return content[:head] == _MAGIC + hashlib.sha256(content[head:]).digest()

"""Files that are written whole or not at all, and never in place of what was read."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from tvm_sparse.errors import OutputError, TvmSparseError, reason
from tvm_sparse.files.folders import scratch_folder

# The suffixes that tell other packages which format to write.
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


@contextlib.contextmanager
def replacing(
    path: Path, error: type[TvmSparseError] = OutputError, read: Iterable[Path] = ()
) -> Iterator[Path]:
    """Give a path in an empty folder; the file that is written there then replaces `path`.

    The name of the file that is given is always the same, apart from a plain suffix. A symbolic
    link stays, and the file that it names is replaced. The permissions of a replaced file stay.

    Parameters
    ----------
    path : Path
        The file to write or replace.
    error : type
        The type of error to raise if that fails.
    read : iterable of Path
        The files from which the new one is made; it may not replace any of them.

    Raises
    ------
    TvmSparseError
        `error`, with the system's reason, if `path` cannot be written; it is as it was, then.
    """
    target = writable_target(path, error, read)
    try:
        with scratch_folder(target.parent) as folder:
            suffix = target.suffix if _SUFFIX.fullmatch(target.suffix) else ""
            temporary = folder / f"new{suffix}"
            yield temporary
            _put(temporary, target)
    except OSError as failure:
        raise error(f"{path}: cannot be written: {failure.strerror or failure}") from failure
    except MemoryError as failure:
        raise error(f"{path}: cannot be written: {reason(failure)}") from failure


def writable_target(
    path: Path, error: type[TvmSparseError] = OutputError, read: Iterable[Path] = ()
) -> Path:
    """Return the file that `path` names, behind all links, if a program may write to it.

    Parameters
    ----------
    path, error, read
        As for `replacing`.

    Raises
    ------
    TvmSparseError
        `error`, if `path` is a folder, a device or a pipe, one of the files in `read` by any name,
        or protected against writing.
    """
    try:
        target = Path(os.path.realpath(path))
        found = target.stat()
    except FileNotFoundError:
        return target
    except (OSError, ValueError) as failure:
        raise error(
            f"{path}: cannot be written: {getattr(failure, 'strerror', None) or failure}"
        ) from failure
    if stat.S_ISDIR(found.st_mode):
        raise error(f"{path}: cannot be written: it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{path}: cannot be written: it is a device or a pipe, not a regular file")
    for other in read:
        if _is_file(other, found):
            also = "" if other == path else f", which is the same file as {other}"
            raise error(f"{path}: would be overwritten{also}, but is read; choose another name")
    if not os.access(target, os.W_OK):
        raise error(f"{path}: cannot be written: {os.strerror(errno.EACCES)}")
    return target


def check_writable(
    path: Path, error: type[TvmSparseError] = OutputError, read: Iterable[Path] = ()
) -> None:
    """Raise an error before a long computation if its result cannot be written.

    Parameters
    ----------
    path, error, read
        As for `replacing`.

    Raises
    ------
    TvmSparseError
        `error`, as `replacing`, or because the folder of `path` is missing or not writable.
    """
    target = writable_target(path, error, read)
    try:
        with scratch_folder(target.parent):
            pass
    except OSError as failure:
        raise error(f"{path}: cannot be written: {failure.strerror or failure}") from failure


def write_json(path: Path, value: object, read: Iterable[Path] = ()) -> None:
    """Write a value as JSON.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    with replacing(path, read=read) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def _is_file(path: Path, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), found)
    except (OSError, ValueError):
        return False


def _put(temporary: Path, target: Path) -> None:
    """Move a file to its place so that it is there as a whole even after a power cut."""
    with contextlib.suppress(FileNotFoundError):
        old = target.stat()
        with contextlib.suppress(PermissionError):  # Only the superuser gives files away.
            os.chown(temporary, old.st_uid, old.st_gid)
        temporary.chmod(stat.S_IMODE(old.st_mode))
    _sync(temporary)
    temporary.replace(target)
    # The file is in its place now, whatever becomes of the folder's entry in a power cut.
    with contextlib.suppress(OSError, MemoryError):
        _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

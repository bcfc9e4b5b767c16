"""Our folder among the user's data, and folders for unfinished files.

A folder for unfinished files disappears however its process ends. A shell waits for that end and
removes the folder. If the shell is killed too, the folder stays, but nobody holds its lock any
more, and the next process that makes such a folder in the same place removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tvm_sparse.errors import OutputError

PREFIX = ".tvm_sparse-unfinished-"
"""How the names of folders for unfinished files begin; `tempfile` adds eight characters."""

_OURS = re.compile(re.escape(PREFIX) + "[a-z0-9_]{8}")

# The errors of a disk that takes no more.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# `read` ends when this process has closed the pipe, or has ended in any way.
_WAIT_AND_REMOVE = 'trap "" HUP INT TERM; read -r _; rm -rf -- "$1"'


def data_folder() -> Path:
    """Return our folder among the user's data, where records and measurements are kept.

    Raises
    ------
    OutputError
        If the user has no home folder.
    """
    chosen = Path(os.environ.get("XDG_DATA_HOME", ""))
    # The XDG specification wants relative paths ignored: data of the current folder is no user's.
    if not chosen.is_absolute():
        with contextlib.suppress(RuntimeError):
            chosen = Path.home() / ".local" / "share"
    if not chosen.is_absolute():
        raise OutputError(
            "the user's data folder is not known, since the user has no home folder: set HOME or "
            "XDG_DATA_HOME"
        )
    return chosen / "tvm-sparse"


@contextlib.contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder for unfinished files, and remove it at the end or when the process ends.

    Parameters
    ----------
    parent : Path, optional
        Where the folder is made; by default the system's folder for temporary files.

    Raises
    ------
    OSError
        If no folder can be made in `parent`.
    OutputError
        If none can be made in the system's folder, or the disk there gets full.
    """
    try:
        where = Path(parent or tempfile.gettempdir()).absolute()
        _sweep(where)
        folder, lock = _make(where)
    except OSError as error:
        if parent is not None:
            raise
        raise OutputError(
            f"no folder for temporary files can be made: {error.strerror or error}; the "
            "environment variable TMPDIR names the place for them"
        ) from error
    guard = None
    try:
        guard = _guard(folder)
        yield folder
    except OSError as error:
        if parent is not None or error.errno not in _DISK:
            raise
        raise OutputError(
            f"{where}: temporary files cannot be written there: {error.strerror}; the environment "
            "variable TMPDIR names another place"
        ) from error
    finally:
        # What was done is done, even if there is no memory to clean up; the next process will.
        with contextlib.suppress(MemoryError):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        if guard is not None:
            guard.kill()
            with contextlib.suppress(MemoryError):
                guard.communicate()


def _make(parent: Path) -> tuple[Path, int]:
    """Return a new folder, and its open descriptor, which holds a lock where locks are known."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Until the lock is held, another process may take the folder for one that is left over.
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        is_taken = False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_taken = True
        except OSError:
            pass  # Some network file systems have no locks.
        if not is_taken and folder.exists():
            return folder, lock
        os.close(lock)


def _guard(folder: Path) -> subprocess.Popen[bytes] | None:
    """Start the shell that removes a folder after this process; None if there is no shell."""
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", _WAIT_AND_REMOVE, "sh", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
    except (OSError, MemoryError):
        return None


def _sweep(parent: Path) -> None:
    """Remove the folders that processes which are gone have left in `parent`."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        left = [entry.path for entry in entries if _OURS.fullmatch(entry.name)]
        for path in left:
            with contextlib.suppress(OSError):
                _remove_if_left(path)


def _remove_if_left(path: str) -> None:
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)

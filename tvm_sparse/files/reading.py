"""Opening the user's files, and only files: a pipe would block, and a device may never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from tvm_sparse.errors import TvmSparseError


def open_regular(path: Path, error: type[TvmSparseError]) -> BinaryIO:
    """Open a regular file for reading.

    Raises
    ------
    TvmSparseError
        `error`, with the reason, if there is no such file, or it is a folder, a device or a pipe.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # A pipe does not block, then.
    except (OSError, ValueError) as failure:
        said = getattr(failure, "strerror", None) or failure
        raise error(f"{path}: cannot be read: {said}") from failure
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise error(f"{path}: cannot be read: it is a folder, a device or a pipe")
    return os.fdopen(descriptor, "rb")

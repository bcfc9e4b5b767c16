"""The user's data folder, files that are written whole or not at all, and arrays in files."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tvm_sparse.errors import InputError, OutputError, TvmSparseError


def data_folder() -> Path:
    """Return our folder among the user's data, where records and measurements are kept."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "tvm-sparse"


@contextlib.contextmanager
def replacing(path: Path, error: type[TvmSparseError] = OutputError) -> Iterator[Path]:
    """Give a path in an empty folder; the file that is written there then replaces `path`.

    Parameters
    ----------
    path : Path
        The file to write or replace.
    error : type
        The type of error to raise if that fails.

    Raises
    ------
    TvmSparseError
        `error`, with the system's reason, if `path` cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            temporary.replace(path)
    except OSError as failure:
        raise error(f"{path}: cannot be written: {failure.strerror or failure}") from None


def check_writable(path: Path, error: type[TvmSparseError] = OutputError) -> None:
    """Raise an error before a long computation if its result cannot be written.

    Raises
    ------
    TvmSparseError
        `error`, if `path` is a folder, or its folder is missing or not writable.
    """
    if path.is_dir():
        raise error(f"{path}: cannot be written: it is a folder")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as failure:
        raise error(f"{path}: cannot be written: {failure.strerror or failure}") from None


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    contents: dict[str, Any] = dict(arrays)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **contents)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read arrays by name that `numpy.savez` wrote.

    Raises
    ------
    InputError
        If there is no such file, or it holds no arrays by name.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile):
        raise InputError(f"{path}: no arrays by name; write it with numpy.savez") from None


def read_npy(path: Path) -> np.ndarray:
    """Read an array that `numpy.save` wrote.

    Raises
    ------
    InputError
        If there is no such file, or it holds no array.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError):
        array = None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: not an array; write it with numpy.save")
    return array

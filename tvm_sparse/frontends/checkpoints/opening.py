"""Which files are checkpoints, and how one becomes an ONNX file for this process."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from tvm_sparse.errors import ModelError
from tvm_sparse.files import scratch_folder
from tvm_sparse.frontends.checkpoints.checkpoint import Checkpoint, weight_files

_MAGIC = b"GGUF"

_lock = threading.Lock()
_made: dict[tuple[object, ...], Path] = {}
"""The ONNX files of checkpoints, by the identity of what they are made of."""


def is_checkpoint(path: Path) -> bool:
    """Return whether `path` is a GGUF file, or a folder with a ``config.json`` and no ONNX file."""
    try:
        if path.is_dir():
            return (path / "config.json").is_file() and not (path / "model.onnx").exists()
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    # Whoever reads the file for its purpose says what is wrong with it.
    except (OSError, ValueError):
        return False


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file, or a folder in Hugging Face's layout.

    Raises
    ------
    ModelError
        If it is no whole file or folder of that kind, or not of Llama's family.
    ToolError
        If the package that reads such files is not installed.
    """
    # Late, because few need the packages that these modules import.
    if path.is_dir():
        from tvm_sparse.frontends.checkpoints.hugging_face import open_folder

        return open_folder(path)
    from tvm_sparse.frontends.checkpoints.gguf_file import open_gguf

    return open_gguf(path)


def checkpoint_files(path: Path) -> Iterator[Path]:
    """Yield the files of a checkpoint."""
    if not path.is_dir():
        yield path
        return
    yield path / "config.json"
    yield from weight_files(path)


def as_onnx(path: Path) -> Path:
    """Return an ONNX file of a checkpoint, which lives as long as this process.

    The file is made once; a checkpoint that has changed since is read again. It lies in the
    system's folder for temporary files, which `TMPDIR` names.

    Raises
    ------
    ModelError, ToolError
        As `open_checkpoint` and `Checkpoint.write` raise them.
    OutputError
        If the folder for temporary files cannot hold it.
    """
    try:
        found = [(file, file.stat()) for file in checkpoint_files(path)]
    except FileNotFoundError as error:
        raise ModelError(f"{error.filename}: there is no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    identity = tuple(
        (os.fspath(file.absolute()), status.st_ino, status.st_mtime_ns, status.st_size)
        for file, status in found
    )
    with _lock:
        if identity not in _made or not _made[identity].exists():
            checkpoint = open_checkpoint(path)
            _made[identity] = checkpoint.write(_folder() / f"{len(_made)}.onnx")
        return _made[identity]


def _folder() -> Path:
    """Return a folder that goes when this process ends."""
    process = os.getpid()
    stack = contextlib.ExitStack()
    folder = stack.enter_context(scratch_folder())

    def remove() -> None:
        # A child that was forked off has its parent's list of things to do at the end.
        if os.getpid() == process:
            stack.close()

    atexit.register(remove)
    return folder

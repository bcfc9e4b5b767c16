"""Libraries of models, kept in a folder for the next process."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tvm_sparse
from tvm_sparse.cpu.this_machine import usable_cores
from tvm_sparse.errors import LibraryError
from tvm_sparse.frontends.model_files import ModelFiles
from tvm_sparse.version import __version__

_log = logging.getLogger("tvm_sparse")


def compiled_library(
    model: Path,
    shapes: Mapping[str, Sequence[int]],
    threads: int | None,
    precision: Any,
    cache: str,
) -> tvm_sparse.Engine:
    """Return an engine of a model, from a folder of libraries if it is there.

    Parameters
    ----------
    model : Path
        The ONNX file.
    shapes, threads, precision
        As `tvm_sparse.compile` takes them.
    cache : str
        The folder; empty for none. Whoever can write into it can run code in this process.

    Raises
    ------
    ModelError, InputError
        As `tvm_sparse.compile` raises them.
    """
    threads = threads or usable_cores()
    if not cache:
        return tvm_sparse.compile(model, shapes, threads=threads, precision=precision)
    library = Path(cache).expanduser() / f"{_digest(model, shapes, threads, precision)}.so"
    if library.exists():
        try:
            return tvm_sparse.load(library, threads)
        except LibraryError as error:
            _log.warning("the library is compiled again: %s", error)
    engine = tvm_sparse.compile(model, shapes, threads=threads, precision=precision)
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        engine.save(library)
    except (LibraryError, OSError) as error:
        _log.warning("the library is not kept for the next process: %s", error)
    return engine


def _digest(model: Path, shapes: Mapping[str, Sequence[int]], threads: int, precision: str) -> str:
    """Return a name for a library, from all that it is made of."""
    found = hashlib.sha256()
    settings = [sorted((name, list(shape)) for name, shape in shapes.items()), threads, precision]
    found.update(json.dumps([*settings, __version__]).encode())
    for path in ModelFiles(model):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:32]

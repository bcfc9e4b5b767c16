"""The files that a model is read from, which nothing that is made of the model may replace."""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from tvm_sparse.frontends.checkpoints import checkpoint_files, is_checkpoint
from tvm_sparse.frontends.onnx_file import external_tensors

_KEY = "location"
"""The key of the entry of a weight that names its file."""


@dataclass(frozen=True)
class ModelFiles:
    """The model's file and those with its external weights, looked up each time they are asked for.

    Attributes
    ----------
    path : Path
        An ONNX file, or a folder with a ``model.onnx``, or a checkpoint.
    """

    path: Path

    def __iter__(self) -> Iterator[Path]:
        """Yield the files, the model's own one first; what cannot be read yields nothing more."""
        if is_checkpoint(self.path):
            yield from checkpoint_files(self.path)
            return
        path = self.path / "model.onnx" if self.path.is_dir() else self.path
        yield path
        try:
            found = path.stat()
        except OSError:
            return
        identity = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
        for location in _external_locations(path, identity):
            yield path.parent / location


@functools.lru_cache(maxsize=8)
def _external_locations(path: Path, identity: tuple[int, ...]) -> tuple[str, ...]:
    """Return where a model's external weights lie; `identity` changes whenever the file does."""
    del identity
    try:
        if not _may_have_external_weights(path):
            return ()
        model = onnx.load(os.fspath(path), load_external_data=False)
    # Whoever reads the model for its purpose says what is wrong with it.
    except Exception:
        return ()
    entries = (entry for tensor in external_tensors(model) for entry in tensor.external_data)
    return tuple({entry.value for entry in entries if entry.key == _KEY})


def _may_have_external_weights(path: Path) -> bool:
    """Return whether the key of an external weight's file occurs in a model, read as plain bytes.

    That takes a tenth of the time of parsing a file that holds its weights.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_KEY.encode()) >= 0

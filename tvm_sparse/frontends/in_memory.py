"""ONNX models in memory: they become files, which all frontends read."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvm_sparse.errors import ModelError, TvmSparseError
from tvm_sparse.files import scratch_folder


def is_in_memory(model: object) -> bool:
    """Return whether `model` is the content of an ONNX file, or an ``onnx.ModelProto``."""
    onnx = sys.modules.get("onnx")
    is_proto = onnx is not None and isinstance(model, onnx.ModelProto)
    return is_proto or isinstance(model, bytes | bytearray | memoryview)


@contextlib.contextmanager
def on_disk(model: Any) -> Iterator[Path]:
    """Write a model to a file for the time of a ``with`` block; errors do not name the file.

    Raises
    ------
    ModelError
        If the model cannot be written.
    """
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        try:
            path.write_bytes(model if isinstance(model, bytes) else _content(model))
            yield path
        except TvmSparseError as error:
            error.args = (str(error).replace(str(path), "the model"), *error.args[1:])
            raise


def _content(model: Any) -> bytes:
    if isinstance(model, bytearray | memoryview):
        return bytes(model)
    # Its parsers' errors, such as that of a message above 2 GB, share no base class.
    try:
        return model.SerializeToString()
    except Exception as error:
        raise ModelError(
            f"the model cannot be written, so compile its file: {str(error).splitlines()[0]}"
        ) from None

"""GGUF files of llama.cpp, which the package gguf reads."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvm_sparse.errors import ToolError, TvmSparseError, border


@contextmanager
def gguf_reader(
    path: Path, error: type[TvmSparseError]
) -> Iterator[tuple[Any, Callable[..., Any]]]:
    """Open a GGUF file; yields its `gguf.GGUFReader`, and what makes floats of tensors.

    Raises
    ------
    ToolError
        If the package gguf is not installed.
    TvmSparseError
        `error`, if the file cannot be read, or something fails while it is open.
    """
    try:
        gguf = importlib.import_module("gguf")
    except ImportError:
        raise ToolError(
            f"{path}: reading GGUF files takes the package gguf: pip install 'tvm-sparse[gguf]'"
        ) from None
    if not path.is_file():
        raise error(f"{path}: there is no such file")
    with border(error, f"{path}: not a GGUF file, or a truncated one"):
        yield gguf.GGUFReader(path), gguf.dequantize

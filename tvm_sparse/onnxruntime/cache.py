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
from tvm_sparse.errors import LibraryError, ModelError
from tvm_sparse.frontends.model_files import ModelFiles
from tvm_sparse.frontends.named_shapes import named_shapes
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.specs import FallbackOption
from tvm_sparse.version import __version__

_log = logging.getLogger("tvm_sparse")


def compiled_library(
    model: Path,
    shapes: Mapping[str, Sequence[int | str]],
    threads: int | None,
    precision: Any,
    cache: str,
    hints: Mapping[str, int] | None = None,
) -> tvm_sparse.Engine:
    """Return an engine of a model, from a folder of libraries if it is there.

    Parameters
    ----------
    model : Path
        The ONNX file.
    shapes, threads, precision, hints
        As `tvm_sparse.compile` takes them. A library that is there may have other hints.
    cache : str
        The folder; empty for none. Whoever can write into it can run code in this process.

    Raises
    ------
    ModelError, InputError
        As `tvm_sparse.compile` raises them.
    """
    if not cache:
        return _compiled(model, shapes, threads, precision, hints)
    library = Path(cache).expanduser() / f"{_digest(model, shapes, threads, precision)}.so"
    if library.exists():
        try:
            return tvm_sparse.load(library, threads)
        except LibraryError as error:
            _log.warning("the library is compiled again: %s", error)
    engine = _compiled(model, shapes, threads, precision, hints)
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        engine.save(library)
    except (LibraryError, OSError) as error:
        _log.warning("the library is not kept for the next process: %s", error)
    return engine


def open_shapes(model: Path) -> dict[str, tuple[int | str, ...]] | None:
    """Return the shapes of the inputs of a file if its dynamic dimensions can stay open, else None.

    Layers that are quantized have faster kernels where all sizes are known.

    Raises
    ------
    ModelError
        If the file cannot be read.
    """
    proto, _ = read_model(model)
    if any("Quantize" in node.op_type or "Integer" in node.op_type for node in proto.graph.node):
        return None
    return named_shapes(proto, None)


def _compiled(
    model: Path,
    shapes: Mapping[str, Sequence[int | str]],
    threads: int | None,
    precision: Any,
    hints: Mapping[str, int] | None,
) -> tvm_sparse.Engine:
    # What cannot be compiled for all sizes has kernels of ours where they are known.
    is_open = any(isinstance(size, str) for shape in shapes.values() for size in shape)
    fallback: FallbackOption = "off" if is_open else "onnxruntime"
    engine = tvm_sparse.compile(
        model, shapes, threads=threads, precision=precision, hints=hints, fallback=fallback
    )
    if engine.report and engine.report.kept_by_tvm:
        raise ModelError(engine.report.kept_by_tvm)
    return engine


def _digest(
    model: Path, shapes: Mapping[str, Sequence[int | str]], threads: int | None, precision: str
) -> str:
    """Return a name for a library, from all that it is made of."""
    found = hashlib.sha256()
    known = sorted((name, list(shape)) for name, shape in shapes.items())
    settings = [known, threads or f"of {usable_cores()}", precision, __version__]
    found.update(json.dumps(settings).encode())
    for path in ModelFiles(model):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:32]

"""Compiles a model in a process of its own, with limits on time and memory."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm

from tvm_sparse.compile_report import CompileReport
from tvm_sparse.errors import InputError, LibraryError, TargetError
from tvm_sparse.files import open_regular, scratch_folder
from tvm_sparse.runtime import library, limited
from tvm_sparse.runtime.engine import Engine
from tvm_sparse.runtime.info import LibraryInfo
from tvm_sparse.runtime.loaded import LibraryFile


def compile_apart(
    options: Mapping[str, Any], seconds: float | None, gigabytes: float | None
) -> Engine:
    """Return the engine of a model that another process compiled.

    Parameters
    ----------
    options : mapping of str to object
        The arguments of `tvm_sparse.compile`; the model is a file.
    seconds, gigabytes : float or None
        The time that it may take, and the memory that it may have; None is no limit.

    Raises
    ------
    LimitError
        If it takes longer or crashes.
    InputError
        If a limit is not above 0, or the model is no file.
    TvmSparseError
        As `tvm_sparse.compile`.
    """
    for name, limit in (("limit_time", seconds), ("limit_memory", gigabytes)):
        if limit is not None and not 0 < limit < float("inf"):
            raise InputError(f"{name} must be a number above 0, got {limit!r}")
    if isinstance(options["model"], tvm.IRModule):
        raise InputError("limit_time= and limit_memory= are for ONNX files, not for Relax modules")
    with scratch_folder() as folder:
        path = folder / "library.so"
        arguments = {"path": path, "options": dict(options)}
        info, threads, report = limited.call(
            f"{__name__}:_compile_to", arguments, seconds, gigabytes
        )
        return Engine(_opened(path, info), info, threads, report, options["streams"])


def _opened(path: Path, info: LibraryInfo) -> LibraryFile:
    """Load a library; one for another machine is only opened, so that it can be saved."""
    try:
        library.check_machine(info)
    except TargetError:
        return LibraryFile(path, open_regular(path, LibraryError))
    return library.read_library(path)[0]


def _compile_to(
    path: Path, options: dict[str, Any]
) -> tuple[LibraryInfo, int, CompileReport | None]:
    """Compile a model to a library, in the other process."""
    # The compiler stands above this module, whose caller it is.
    engine = importlib.import_module("tvm_sparse.compiler").compile(**options)
    engine.save(path)
    return engine.info, engine.threads, engine.report

"""How a library is loaded from its file."""

from __future__ import annotations

import os
from pathlib import Path

from tvm_sparse.cpu.threads import note_other_threads
from tvm_sparse.runtime import library
from tvm_sparse.runtime.engine import Engine


def load(path: str | os.PathLike[str], threads: int | None = None, streams: int = 1) -> Engine:
    """Load a library that `Engine.save` or ``tvm-sparse compile`` wrote.

    Parameters
    ----------
    path : str or PathLike
        The library.
    threads : int, optional
        Threads that an inference runs on; by default those that the library was compiled for, or
        all cores that this process may use, or the share of one stream, if they are fewer. The
        logger ``tvm_sparse`` gets one warning if the library was compiled for another number.
    streams : int
        Inferences that may run at once, each on `threads` threads.

    Returns
    -------
    Engine
        Engines of the same file share its weights; the last one that is closed or forgotten frees
        them. A file that was replaced is another file.

    Raises
    ------
    LibraryError
        If the file is missing, truncated, damaged, not ours, of another version, or for another
        processor.
    """
    loaded, info = library.read_library(Path(path))
    engine = Engine(loaded, info, threads, streams=streams)
    note_other_threads(os.fspath(path), info.threads, engine.threads)
    return engine

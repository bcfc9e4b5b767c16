"""Pickles of engines: they hold the whole library, as `Engine.save` writes it."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from tvm_sparse.files import scratch_folder
from tvm_sparse.runtime import library
from tvm_sparse.runtime.loaded import LibraryFile

if TYPE_CHECKING:
    from tvm_sparse.runtime.engine import Engine


def reduced(engine: Engine, protocol: int) -> tuple[Any, ...]:
    """Return what pickle makes an engine from; protocol 5 can carry the library out of band."""
    content = _content(engine)
    whole = pickle.PickleBuffer(content) if protocol >= 5 else content
    return _from_content, (whole, engine.threads, engine.streams)


def _content(engine: Engine) -> bytes:
    code = engine.open_code()
    if isinstance(code, LibraryFile):
        return code.file().read_bytes()
    with scratch_folder() as folder:
        path = folder / "engine.so"
        engine.save(path)
        return path.read_bytes()


def _from_content(content: bytes, threads: int, streams: int = 1) -> Engine:
    from tvm_sparse.runtime.engine import Engine

    code, info = library.read_library_in_memory(content)
    return Engine(code, info, threads, streams=streams)

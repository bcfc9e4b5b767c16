"""Libraries in memory: engines of one file share one copy of its weights, which the last one frees.

The system's loader knows loaded libraries by their paths: given the path of one whose file was
replaced meanwhile, it returns the old one. So each file is loaded by a path of its own, through
the descriptor that stays open as long as the library is used.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from pathlib import Path
from typing import BinaryIO

import tvm_ffi

import tvm_sparse.runtime.tvm_runtime  # noqa: F401
from tvm_sparse.errors import LibraryError
from tvm_sparse.runtime.quiet import quiet_runtime
from tvm_sparse.runtime.weights import Weights, map_weights


class LibraryFile:
    """A library that was opened, and can be copied whatever becomes of its path.

    Attributes
    ----------
    path : Path
        The path from which the library was opened first. Another file may be there now.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file
        self._identity = _identify(file)

    def file(self) -> Path:
        """Return a path of the file that was opened, even if it has none in its folder any more.

        Raises
        ------
        LibraryError
            If the file was written to after it was loaded.
        """
        if _identify(self._file) != self._identity:
            raise LibraryError(f"{self.path}: was overwritten after it was loaded; load it again")
        return Path(f"/proc/self/fd/{self._file.fileno()}")


class LoadedLibrary(LibraryFile):
    """A library that is loaded.

    Attributes
    ----------
    module : tvm_ffi.Module
        The module; its code is freed when nothing refers to it any more.
    weights : list of tensor
        The weights beside the code, in the memory that the file is mapped to.
    """

    def __init__(
        self,
        module: tvm_ffi.Module,
        path: Path,
        file: BinaryIO,
        weights: list[tvm_ffi.Tensor],
    ) -> None:
        super().__init__(path, file)
        self.module, self.weights = module, weights


_Identity = tuple[int, int, int, int]

_loaded: weakref.WeakValueDictionary[_Identity, LoadedLibrary] = weakref.WeakValueDictionary()
_loads = itertools.count(1)
_lock = threading.Lock()

# Another thread may hold the lock when the process is forked; that thread is not in the child.
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)


def load_library(path: Path, file: BinaryIO, weights: Weights | None = None) -> LoadedLibrary:
    """Load a library, or return the one that is loaded from the same file.

    Parameters
    ----------
    path : Path
        The path of the library, for messages.
    file : binary file
        The library, open; it belongs to the result from now on.
    weights : Weights, optional
        The weights beside its code.

    Raises
    ------
    LibraryError
        If the file was written to after an engine loaded it.
    OSError, RuntimeError, ValueError
        If the system cannot load the file.
    """
    with _lock:
        identity = _identify(file)
        found = _loaded.get(identity)
        if found is not None:
            file.close()
            return found
        if any(other[:2] == identity[:2] for other in _loaded):
            raise LibraryError(
                f"{path}: was overwritten while an engine has it loaded; close that engine, and "
                "replace files by renaming, as `save` does"
            )
        with quiet_runtime():
            module = _load(file)
        mapped = [] if weights is None else map_weights(file, weights)
        library = LoadedLibrary(module, path, file, mapped)
        _loaded[identity] = library
        return library


def load_code(file: BinaryIO) -> tvm_ffi.Module:
    """Load an open file of compiled code; nothing is checked, and the file may be closed then.

    Raises
    ------
    OSError, RuntimeError, ValueError
        If the system cannot load the file.
    """
    with _lock:
        return _load(file)


def _load(file: BinaryIO) -> tvm_ffi.Module:
    return tvm_ffi.get_global_func("ffi.Module.load_from_file.so")(_unique_path(file), "so")


def _identify(file: BinaryIO) -> _Identity:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _unique_path(file: BinaryIO) -> str:
    """Return a path of an open file that no other load of this process has.

    The number of a descriptor is used again, so the path also spells the number of the load in
    binary, by components that change nothing: ``./`` is a one and an empty one is a zero.
    """
    digits = f"{next(_loads):b}".replace("1", "./").replace("0", "/")
    return f"/proc/self/fd/{digits}{file.fileno()}"

"""TVM's runtime without TVM's compiler: 5 MB of libraries instead of 260.

A process that only runs libraries needs the small ones, which the package `tvm` loads beside the
compiler. Loading them by themselves takes a tenth of the time and a fifth of the memory. A later
``import tvm`` finds them loaded.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

import tvm_ffi  # noqa: F401  The libraries find TVM's calling convention in this process.

_LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_extra.so")
"""The virtual machine and thread pool, and operators such as sorting, in the order of need."""


def _load() -> None:
    if "tvm" in sys.modules:
        return
    found = importlib.util.find_spec("tvm")
    folder = Path(found.origin).parent / "lib" if found and found.origin else Path()
    paths = [folder / name for name in _LIBRARIES]
    if "TVM_LIBRARY_PATH" in os.environ or not all(path.exists() for path in paths):
        import tvm  # noqa: F401  It knows where the libraries of a TVM from source are.

        return
    for path in paths:
        ctypes.CDLL(os.fspath(path), ctypes.RTLD_GLOBAL)


_load()

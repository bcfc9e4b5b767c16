"""Pages of a loaded library that are needed no more are given back to the system.

TVM copies the weights out of the library's file when it loads them. The pages of the file that it
has read would stay in the memory of the process, so that it holds the weights twice. They can be
dropped: whoever reads them again gets them from the file.
"""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
import mmap

_MADV_DONTNEED = 4

_LENGTH_BYTES = 8
"""The weights begin with their length, a little-endian number."""


def drop_pages(path: str, symbol: str) -> int:
    """Give back the pages of a library's weights.

    Parameters
    ----------
    path : str
        The path by which the library was loaded.
    symbol : str
        The name of the weights; they are constant data without relocations.

    Returns
    -------
    int
        The bytes of the pages; 0 if the library has no weights.
    """
    with contextlib.ExitStack() as stack:
        try:
            library = ctypes.CDLL(path)
        except OSError:  # It is loaded, so this is only a lack of memory.
            return 0
        stack.callback(_ctypes.dlclose, library._handle)
        try:
            start = ctypes.addressof(ctypes.c_char.in_dll(library, symbol))
        except ValueError:
            return 0
        length = int.from_bytes(ctypes.string_at(start, _LENGTH_BYTES), "little")
        # Only whole pages: others hold constants of the code, too.
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (start + _LENGTH_BYTES + length) // mmap.PAGESIZE * mmap.PAGESIZE
        if last <= first:
            return 0
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        return 0 if advise(first, last - first, _MADV_DONTNEED) else last - first

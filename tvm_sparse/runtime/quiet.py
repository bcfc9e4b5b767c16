"""What TVM's C++ logs while libraries are written and loaded.

TVM logs a line for each weight of an executable that has run. There is no way to tell it not to.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator

_GOOD, _BAD = 0, 1  # `std::ios_base::goodbit` and `badbit`

_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def quiet_runtime() -> Iterator[None]:
    """Let C++ drop what it writes to `std::cerr`; standard error itself is not touched.

    A stream in a bad state drops its output, and no file descriptor has to be replaced, which
    other threads use.
    """
    global _users
    with _lock:
        _users += 1
        _set_state(_BAD)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _set_state(_GOOD)


def _after_fork() -> None:
    """Let C++ write again in a child process, in which the users of `quiet_runtime` do not run."""
    global _lock, _users
    if _users:
        _lock, _users = threading.Lock(), 0
        _set_state(_GOOD)


os.register_at_fork(after_in_child=_after_fork)


def _find_state() -> Callable[[int], object]:
    """Return a function that sets the state of `std::cerr`; it does nothing if there is none."""
    try:
        library = ctypes.CDLL("libstdc++.so.6")
        stream = ctypes.addressof(ctypes.c_char.in_dll(library, "_ZSt4cerr"))
        clear = library._ZNSt9basic_iosIcSt11char_traitsIcEE5clearESt12_Ios_Iostate
    except (OSError, ValueError, AttributeError):
        return lambda state: None
    clear.argtypes, clear.restype = (ctypes.c_void_p, ctypes.c_int), None
    # The state belongs to a virtual base class, whose offset stands before the virtual table.
    table = ctypes.c_void_p.from_address(stream).value or 0
    base = stream + ctypes.c_ssize_t.from_address(table - 3 * ctypes.sizeof(ctypes.c_void_p)).value
    return lambda state: clear(base, state)


_set_state = _find_state()

"""The end of the program by a signal, within two seconds, whatever it is doing.

Python handles a signal between two steps of Python code, and so not while TVM compiles. The
exception that a handler raises may come out of TVM as another one, or get lost. So a thread
watches: it learns of a signal at once, gives the program time to end by the exception, and then
ends it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

GRACE_SECONDS = 1.0
"""Seconds in which the program may end by itself."""

_CLEANUP_SECONDS = 0.5
"""Seconds that the removal of temporary files may take after that."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_SHOW_CURSOR = "\x1b[?25h"


class Ended(BaseException):
    """A signal ended the program.

    Attributes
    ----------
    status : int
        The exit status: 128 and the number of the signal, as in shells; 130 after Ctrl-C.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def at_once() -> None:
    """Let signals end the program at once, before anything has begun."""
    _ask_on_signals()


def by_signals() -> None:
    """Let signals end the program from now on; before `unwinding`, at once.

    This is for the program alone: the thread that watches stays, and may end the process.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    threading.Thread(target=_watch, args=(read,), daemon=True).start()
    _ask_on_signals()


def _ask_on_signals() -> None:
    for number in _SIGNALS:
        # A program in the background ignores some signals.
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _ask)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Raise `Ended` after a signal, whatever became of it inside of the context."""
    global _is_unwinding
    _is_unwinding = True
    try:
        yield
    except BaseException:
        if not _asked:
            raise
    finally:
        _is_unwinding = False
    if _asked:
        raise Ended(_asked[0])


_asked: list[int] = []
_is_unwinding = False


def _ask(number: int, frame: FrameType | None) -> None:
    if not _is_unwinding:
        os._exit(128 + number)
    if not _asked:
        _let_only_us_speak()
    _asked.append(number)
    raise Ended(number)


def _let_only_us_speak() -> None:
    """Drop what Python and TVM say of what the exception leaves behind: the program ends."""
    global _errors
    sys.unraisablehook = lambda _: None
    try:
        _errors, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # standard error is closed, or no descriptor is left
        return
    sys.stderr = os.fdopen(_errors, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.dup2(nothing, 2)
    os.close(nothing)


_errors = 2
"""The descriptor of standard error."""


def _watch(read: int) -> None:
    """Wait for a signal, and end the process some time later, or with the next signal."""
    while not (asked := [number for number in os.read(read, 16) if number in _SIGNALS]):
        pass
    if len(asked) == 1:
        select.select([read], [], [], GRACE_SECONDS)
    # This removes temporary folders.
    cleanup = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
    cleanup.start()
    cleanup.join(_CLEANUP_SECONDS)
    if os.isatty(_errors):
        os.write(_errors, _SHOW_CURSOR.encode())
    os._exit(128 + asked[0])

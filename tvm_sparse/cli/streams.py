"""The standard streams of the command line: closed, broken or full ones, and text for terminals."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from tvm_sparse.errors import OutputError, printable

BROKEN_PIPE = 141
"""The exit status after the reader of standard output has gone, as shells report SIGPIPE."""


class StreamClosed(Exception):
    """Nobody reads standard output any more."""


def say(text: object) -> None:
    """Print a text on standard output, each line as `printable` returns it.

    Names come from models that strangers wrote: an escape sequence in one must not reach the
    terminal.

    Raises
    ------
    OutputError
        If it cannot be written, as on a full disk.
    StreamClosed
        If nobody reads it.
    """
    write("".join(f"{printable(line)}\n" for line in str(text).split("\n")))


def write(text: str) -> None:
    """Write a text to standard output as it is; `say` gives the errors."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        raise StreamClosed from None
    except OSError as error:
        _drop_output()
        raise OutputError(f"standard output: cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def opened() -> Iterator[None]:
    """Open the standard streams that the caller closed on the null device.

    Otherwise the next file that is opened would be taken for standard output or error.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The system gives the lowest number that is free.
            os.open(os.devnull, os.O_WRONLY if descriptor else os.O_RDONLY)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))
    if hasattr(sys.stdout, "reconfigure"):
        # A name that the terminal's encoding lacks, or a file's name that is no text, is escaped.
        sys.stdout.reconfigure(errors="backslashreplace")
    yield


def _drop_output() -> None:
    """Let the interpreter's last flush of standard output succeed."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)

"""The errors that a user can cause. A message says what is wrong, where, and what to do.

`border` stands where the code of others begins: the reader of a file, TVM's importer, the compiler,
compiled code. Whatever comes out of it is one of these errors, and the first cause is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

PLEASE_REPORT = "This is an error of tvm-sparse: please report it, with the model if you can"
"""What to do about an error that no user can cause."""


class TvmSparseError(Exception):
    """Base of all errors that a user can cause; the command line prints one and exits with 2.

    Its text is one line: names from files may hold line breaks and control characters.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class ModelError(TvmSparseError):
    """A model cannot be read or imported: it is no ONNX, truncated, or has an unknown operator."""


class CompilationError(ModelError):
    """A pass, TVM or LLVM failed at a model that was imported: an error of this package."""


class LimitError(TvmSparseError):
    """Compiling took more time or memory than the caller allowed, or crashed the compiler."""


class InputError(TvmSparseError):
    """An input is missing, or has a wrong name, shape or dtype; or an option has a wrong value."""


class NotLifted(InputError):
    """A model cannot be compiled for all sizes of its inputs."""


class TargetError(TvmSparseError):
    """A target is unknown, or this machine cannot run or build for it."""


class RunError(TvmSparseError):
    """A compiled model cannot be run to its end, such as for want of memory."""


class LibraryError(TvmSparseError):
    """A compiled library cannot be loaded or written."""


class ClosedError(TvmSparseError):
    """An engine was closed before a call."""


class OutputError(TvmSparseError):
    """A result, such as a pruned model or a table in JSON, cannot be written."""


class RecordsError(TvmSparseError):
    """A file of tuning records cannot be read or written."""


class TuningError(TvmSparseError):
    """Tuning cannot go on: there is nothing to tune, or no device answers."""


class VerificationError(TvmSparseError):
    """A compiled model computes something else than ONNX Runtime.

    Attributes
    ----------
    node : str
        The name of the first node that differs; empty if it is not known.
    is_rounding : bool
        Whether it was computed in float16, whose rounding may be the reason.
    """

    def __init__(self, message: str, node: str = "", is_rounding: bool = False) -> None:
        super().__init__(message)
        self.node, self.is_rounding = node, is_rounding


class ToolError(TvmSparseError):
    """A program of another project is missing, too old, or fails."""


class RemoteError(TvmSparseError):
    """A board cannot be reached, or its connection is lost."""


def printable(text: str) -> str:
    """Return `text` with what no terminal should get, such as line breaks, as escape sequences."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of any library says that memory could not be had."""
    said = str(error)
    return isinstance(error, MemoryError) or any(words in said for words in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = ("bad_alloc", "can't allocate lock", "Cannot allocate memory")
"""What C++, Python's threads and the system say."""


def reason(error: BaseException) -> str:
    """Return the first line of what an error of any library says, or what kind it is."""
    if is_out_of_memory(error):
        return "there is not enough memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # An error that says little more than a name or a number needs its type to be understood.
    said = lines[0] if lines else ""
    return said if " " in said else f"{type(error).__name__} {said}".strip()


@contextlib.contextmanager
def border(kind: type[TvmSparseError], what: str, remedy: str = "") -> Iterator[None]:
    """Turn any exception from within into one error, whose ``__cause__`` it is.

    Parameters
    ----------
    kind : type
        The type of the error. Errors of this package pass as they are.
    what : str
        What is not possible, and where.
    remedy : str
        What the user can do.
    """
    try:
        yield
    except TvmSparseError:
        raise
    # Nobody knows what other libraries raise.
    except Exception as error:
        raise kind(f"{what}: {reason(error)}{remedy and f'; {remedy}'}") from error

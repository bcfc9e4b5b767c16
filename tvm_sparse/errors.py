"""The errors that a user can cause. A message says what is wrong, where, and what to do."""

from __future__ import annotations


class TvmSparseError(Exception):
    """Base of all errors that a user can cause; the command line prints one and exits with 2."""


class ModelError(TvmSparseError):
    """A model cannot be read or imported: it is no ONNX, truncated, or has an unknown operator."""


class InputError(TvmSparseError):
    """An input is missing, or has a wrong name, shape or dtype; or an option has a wrong value."""


class TargetError(TvmSparseError):
    """A target is unknown, or this machine cannot run or build for it."""


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
    """

    def __init__(self, message: str, node: str = "") -> None:
        super().__init__(message)
        self.node = node


class ToolError(TvmSparseError):
    """A program of another project is missing, too old, or fails."""


class RemoteError(TvmSparseError):
    """A board cannot be reached, or its connection is lost."""

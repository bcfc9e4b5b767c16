"""Every error that a user can cause, each saying what, where, and what to do."""

from __future__ import annotations


class TvmSparseError(Exception):
    """Base of all errors that a user can cause; the command line prints it and exits with 2."""


class ModelError(TvmSparseError):
    """A model that cannot be read or imported: not ONNX, truncated, or an unknown operator."""


class InputError(TvmSparseError):
    """An input of a wrong name, shape or dtype, or a missing one."""


class TargetError(TvmSparseError):
    """An unknown target, or a target that this machine cannot run or build for."""


class LibraryError(TvmSparseError):
    """A compiled library that cannot be loaded or written."""


class OutputError(TvmSparseError):
    """A result, such as a pruned model or a table in JSON, that cannot be written."""


class RecordsError(TvmSparseError):
    """A file of tuning records that cannot be read or written."""


class TuningError(TvmSparseError):
    """Tuning that cannot go on: nothing to tune, or no device answers."""


class ToolError(TvmSparseError):
    """A program of others that is missing, too old, or fails."""


class RemoteError(TvmSparseError):
    """A board that cannot be reached, or is lost."""

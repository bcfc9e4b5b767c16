"""Errors that are those of DeepSparse, too."""

from tvm_sparse.errors import InputError


class InputValueError(InputError, ValueError):
    """An argument is none that an engine takes; a ``ValueError``, as in DeepSparse."""

"""The border around compiled code: what comes out of it becomes errors of a user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tvm_sparse.errors import ClosedError, InputError, RunError, border, reason
from tvm_sparse.runtime.machine import MachineClosed

CLOSED = "the engine is closed; load the library again to run it"


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Turn what comes out of compiled code into errors of a user."""
    with border(RunError, "the model cannot be run to its end"):
        try:
            yield
        except MachineClosed:
            raise ClosedError(CLOSED) from None
        except ValueError as error:  # Compiled code checks values, too.
            raise InputError(f"with these inputs {reason(error)}") from error

"""The border around compiled code: what comes out of it becomes errors of a user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Final

from tvm_sparse.errors import ClosedError, InputError, RunError, border, reason
from tvm_sparse.runtime.machine import MachineClosed

CLOSED = "the engine is closed; load the library again to run it"


class _Running:
    """Turns what comes out of compiled code into errors of a user.

    It costs a call of a small model next to nothing, as a generator would not.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            with _translated():
                raise error


RUNNING: Final = _Running()
"""The context in which compiled code runs."""


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    with border(RunError, "the model cannot be run to its end"):
        try:
            yield
        except MachineClosed:
            raise ClosedError(CLOSED) from None
        except ValueError as error:  # Compiled code checks values, too.
            raise InputError(f"with these inputs {reason(error)}") from error

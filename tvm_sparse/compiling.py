"""The lock around TVM's compiler, which one thread of a process may use at a time.

Modules are built by a stack of builders that is global to the process
(`tvm.relax.BlockBuilder._stack`), so two threads would write into each other's functions.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

COMPILING = threading.RLock()
"""The lock to hold while a Relax module is imported, rewritten or compiled; a fork waits for it."""

# Without this, a thread that compiles would leave the lock held in the child, for good.
os.register_at_fork(
    before=COMPILING.acquire,
    after_in_parent=COMPILING.release,
    after_in_child=COMPILING.release,
)


def one_at_a_time(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Return the function with the lock held while it runs."""

    @functools.wraps(function)
    def alone(*arguments: _Parameters.args, **named: _Parameters.kwargs) -> _Result:
        with COMPILING:
            return function(*arguments, **named)

    return alone

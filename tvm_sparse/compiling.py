"""The lock around TVM's compiler, which one caller of a process may use at a time.

Modules are built by a stack of builders that is global to the process
(`tvm.relax.BlockBuilder._stack`), so two threads would write into each other's functions.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")

_STACK_BYTES = 64 << 20
"""Bytes of the stack of a thread that compiles; memory is taken as it is used."""

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


def on_all_cores(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Return the results for some items, computed by as many threads as this process has cores.

    `function` spends its time in C++, and no two calls may write to the same data.
    """
    threads = min(len(os.sched_getaffinity(0)), len(items))
    if threads < 2:
        return [function(item) for item in items]
    # LLVM and TVM's passes recurse. Where the stack of the main thread has no limit, that of other
    # threads is small.
    before = threading.stack_size(_STACK_BYTES)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, items))
    finally:
        threading.stack_size(before)

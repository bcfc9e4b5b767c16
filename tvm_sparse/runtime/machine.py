"""A virtual machine of TVM, and the thread that owns it.

A virtual machine must not be used by two threads at once, and TVM gives every thread that runs one
a pool of its own. So each machine has one thread: calls from several Python threads queue up there,
and no more than its number of threads ever compute.

A fork copies only the thread that calls it: the child has neither our thread nor its pool. So a
fork waits until every machine is between two calls, and the child's engines make new machines.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.cpu.threads import start_pool
from tvm_sparse.runtime import fallback

STARTING = threading.RLock()
"""The lock to hold while machines are made; a fork waits for it."""


class MachineClosed(Exception):
    """A machine was closed before a call."""


class Machine:
    """A virtual machine in a thread of its own.

    Parameters
    ----------
    module : tvm.runtime.Module
        A compiled model.
    threads : int
        The number of threads that it runs on.
    """

    def __init__(self, module: tvm.runtime.Module, threads: int) -> None:
        self._forks = _forks
        self._executor = ThreadPoolExecutor(1, "tvm_sparse")
        self._main, self._thread = self._executor.submit(_start, module, threads).result()
        _machines.add(self)
        weakref.finalize(self, fallback.forget, self._thread).atexit = False

    @property
    def is_of_this_process(self) -> bool:
        """Whether the machine was made after the last fork that led to this process."""
        return self._forks == _forks

    def run(self, tensors: Sequence[tvm.runtime.Tensor]) -> Any:
        """Call the function ``main``.

        Raises
        ------
        MachineClosed
            If `close` was called before.
        """
        try:
            future = self._executor.submit(self._main, *tensors)
        except RuntimeError:
            raise MachineClosed from None
        return future.result()

    def close(self) -> None:
        """Wait for the calls that were made before, and end the thread."""
        if self.is_of_this_process:
            self._executor.shutdown()

    def park(self, until: threading.Event) -> threading.Event | None:
        """Let the thread wait for `until` after the calls that were made before.

        The result is set when the thread waits; it is None if the thread has ended or is the
        calling one.
        """
        parked = threading.Event()

        def wait() -> None:
            parked.set()
            until.wait()

        if not self.is_of_this_process or self._thread == threading.get_ident():
            return None
        try:
            self._executor.submit(wait)
        except RuntimeError:
            return None
        return parked


def _start(module: tvm.runtime.Module, threads: int) -> tuple[Callable[..., Any], int]:
    """Return the function ``main`` of a machine for the calling thread, and the thread's number."""
    start_pool(threads)
    return relax.VirtualMachine(module, tvm.cpu())["main"], threading.get_ident()


_machines: weakref.WeakSet[Machine] = weakref.WeakSet()
_forks = 0
_fork_is_over = threading.Event()


def _before_fork() -> None:
    global _fork_is_over
    STARTING.acquire()
    _fork_is_over = threading.Event()
    for parked in [machine.park(_fork_is_over) for machine in list(_machines)]:
        if parked is not None:
            parked.wait()


def _after_in_parent() -> None:
    _fork_is_over.set()
    STARTING.release()


def _after_in_child() -> None:
    global _forks
    _forks += 1
    STARTING.release()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)

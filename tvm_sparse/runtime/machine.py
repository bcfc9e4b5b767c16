"""Virtual machines of TVM, and the threads that own them.

A virtual machine must not be used by two threads at once, and TVM gives every thread that runs one
a pool of its own. So each virtual machine has one thread: calls from several Python threads queue
up there, and no more than its number of threads ever compute. A `Machine` has as many of them as
calls may run at once. Compiled code runs without Python's global lock.

A fork copies only the thread that calls it: the child has neither our threads nor their pools. So a
fork waits until every machine is between two calls, and the child's engines make new machines.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import tvm_ffi

import tvm_sparse.runtime.tvm_runtime  # noqa: F401
from tvm_sparse.cpu.threads import start_pool
from tvm_sparse.runtime import fallback

STARTING = threading.RLock()
"""The lock to hold while machines are made; a fork waits for it."""

# The numbers that TVM's virtual machine has for devices and for ways to take memory.
_CPU = 1
_NAIVE_MEMORY, _POOLED_MEMORY = 1, 2

_T = TypeVar("_T")


class MachineClosed(Exception):
    """A machine was closed before a call."""


class Machine:
    """A compiled model in threads of its own; a call takes the first one that is free.

    Parameters
    ----------
    module : tvm_ffi.Module
        A compiled model.
    threads : int
        The number of threads that a call runs on.
    streams : int
        The number of calls that may run at once.
    has_sizes : bool
        Whether calls may have tensors of other sizes than those before.
    weights : mapping of str to sequence of tensor
        The last arguments of functions, which each call gets.
    """

    def __init__(
        self,
        module: tvm_ffi.Module,
        threads: int,
        streams: int = 1,
        has_sizes: bool = False,
        weights: Mapping[str, Sequence[tvm_ffi.Tensor]] | None = None,
    ) -> None:
        self._weights = weights or {}
        self._forks = _forks
        self._executor = ThreadPoolExecutor(streams, "tvm_sparse")
        self._local = threading.local()
        together = threading.Barrier(streams)
        # TVM's pool keeps a block for every size that it has seen, and never frees one.
        memory = _NAIVE_MEMORY if has_sizes else _POOLED_MEMORY

        def start() -> int:
            together.wait()  # so that every thread of the executor takes one of these tasks
            start_pool(threads)
            self._local.machine = module["vm_load_executable"]()
            self._local.machine["vm_initialization"](_CPU, 0, memory)
            self._local.functions = {}
            return threading.get_ident()

        try:
            started = [self._executor.submit(start) for _ in range(streams)]
            self._threads = frozenset(each.result() for each in started)
        except BaseException:
            together.abort()
            self._executor.shutdown()
            raise
        _machines.add(self)
        for thread in self._threads:
            weakref.finalize(self, fallback.forget, thread).atexit = False

    @property
    def is_of_this_process(self) -> bool:
        """Whether the machine was made after the last fork that led to this process."""
        return self._forks == _forks

    def run(self, tensors: Sequence[tvm_ffi.Tensor]) -> Any:
        """Call the function ``main``, and wait for it.

        Raises
        ------
        MachineClosed
            If `close` was called before.
        """
        return self.submit(lambda: self.call(tensors)).result()

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Let a thread that has a virtual machine do some work; `call` is for that thread.

        Raises
        ------
        MachineClosed
            If `close` was called before.
        """
        try:
            return self._executor.submit(work)
        except RuntimeError:
            raise MachineClosed from None

    def call(self, tensors: Sequence[tvm_ffi.Tensor], name: str = "main") -> Any:
        """Call a function of the calling thread's virtual machine."""
        functions = self._local.functions
        if name not in functions:
            functions[name] = self._local.machine[name]
        return functions[name](*tensors, *self._weights.get(name, ()))

    def close(self) -> None:
        """Wait for the calls that were made before, and end the threads."""
        if self.is_of_this_process:
            self._executor.shutdown()

    def park(self, until: threading.Event) -> Callable[[], object]:
        """Let all threads wait for `until`, each after the calls that were made before.

        The result returns when they wait. Threads that have ended do not count, nor does the
        calling one.
        """
        parked = threading.Semaphore(0)

        def wait() -> None:
            parked.release()
            until.wait()

        awaited = 0
        if self.is_of_this_process:
            for _ in self._threads - {threading.get_ident()}:
                try:
                    self._executor.submit(wait)
                except RuntimeError:
                    break
                awaited += 1
        return lambda: [parked.acquire() for _ in range(awaited)]


_machines: weakref.WeakSet[Machine] = weakref.WeakSet()
_forks = 0
_fork_is_over = threading.Event()


def _before_fork() -> None:
    global _fork_is_over
    STARTING.acquire()
    _fork_is_over = threading.Event()
    for parked in [machine.park(_fork_is_over) for machine in list(_machines)]:
        parked()


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

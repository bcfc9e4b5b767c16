"""Virtual machines of TVM, and the threads that use them.

A virtual machine must not be used by two threads at once, and TVM gives every thread that runs one
a pool of its own. So a `Machine` has a thread, with a virtual machine, for each of the calls that
may run at once. Calls from many Python threads queue up there, and no more than its number of
threads ever compute. Compiled code runs without Python's global lock.

To wake another thread takes longer than many a small model. So a machine of one thread, whose
pool has no threads, lets every caller compute its call itself, one at a time.

A fork copies only the thread that calls it: the child has neither our threads nor their pools. So a
fork waits until every machine is between two calls, and the child's engines make new machines. A
caller has no pool of several threads: a child would wait at its end for the parent's.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, TypeVar

import tvm_ffi

import tvm_sparse.runtime.host_functions
import tvm_sparse.runtime.tvm_runtime  # noqa: F401
from tvm_sparse.cpu.threads import start_pool
from tvm_sparse.runtime import fallback

STARTING = threading.RLock()
"""The lock to hold while machines are made; a fork waits for it."""

# The numbers that TVM's virtual machine has for devices and for ways to take memory.
_CPU = 1
_NAIVE_MEMORY, _POOLED_MEMORY = 1, 2

_free_blocks = tvm_ffi.get_global_func("vm.builtin.memory_manager.clear")
"""Frees the blocks of TVM's pool, which all engines share, as far as no call uses them."""

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
    grows : bool
        Whether calls take blocks of memory of ever new sizes.
    weights : mapping of str to sequence of tensor
        The last arguments of functions, which each call gets.
    has_fallbacks : bool
        Whether ONNX Runtime runs parts of the model. Its sessions belong to a thread of ours.
    """

    def __init__(
        self,
        module: tvm_ffi.Module,
        threads: int,
        streams: int = 1,
        grows: bool = False,
        weights: Mapping[str, Sequence[tvm_ffi.Tensor]] | None = None,
        has_fallbacks: bool = False,
    ) -> None:
        self._module, self._threads, self._weights = module, threads, weights or {}
        # TVM's pool keeps a block for every size that it has seen, and never frees one.
        self._memory = _NAIVE_MEMORY if grows else _POOLED_MEMORY
        self._forks = _forks
        self._executor = ThreadPoolExecutor(streams, "tvm_sparse")
        self._streams, self._started = streams, frozenset[int]()
        self._for_callers = threads == streams == 1 and not has_fallbacks
        self._turn, self._is_closed = threading.Lock(), False
        self._queued: set[Future[Any]] = set()
        self._local: Any = SimpleNamespace() if self._for_callers else threading.local()
        if not self._computes_here():
            self._start()
        _machines.add(self)

    @property
    def is_of_this_process(self) -> bool:
        """Whether the machine was made after the last fork that led to this process."""
        return self._forks == _forks

    def run(self, tensors: Sequence[tvm_ffi.Tensor], name: str = "main") -> Any:
        """Call a function, and wait for it.

        Raises
        ------
        MachineClosed
            If `close` was called before.
        """
        if not self._computes_here():
            return self.submit(lambda: self.call(tensors, name)).result()
        with self._turn:
            if self._is_closed:
                raise MachineClosed
            self._enter()
            return self.call(tensors, name)

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Let a thread that has a virtual machine do some work; `call` is for that thread.

        Raises
        ------
        MachineClosed
            If `close` was called before.
        """
        if not self._started:
            self._start()
        try:
            future = self._executor.submit(self._in_turn, work)
        except RuntimeError:
            raise MachineClosed from None
        self._queued.add(future)
        future.add_done_callback(self._queued.discard)
        return future

    def call(self, tensors: Sequence[tvm_ffi.Tensor], name: str = "main") -> Any:
        """Call a function of the calling thread's virtual machine."""
        functions = self._local.functions
        if name not in functions:
            functions[name] = self._local.machine[name]
        return functions[name](*tensors, *self._weights.get(name, ()))

    def close(self) -> None:
        """Wait for the calls that were made before, end the threads, and free memory."""
        if self.is_of_this_process:
            with STARTING:
                self._is_closed = True
            self._executor.shutdown()
            with self._turn:  # a caller's call has ended now
                pass
            _free_blocks()

    def park(self, until: threading.Event) -> Callable[[], object]:
        """Let all threads wait for `until`, each after the calls that were made before.

        The result returns when they wait. Threads that have ended do not count, nor does the
        calling one.
        """
        if self._for_callers and not self._started and self.is_of_this_process:
            return self._hold_callers
        parked = threading.Semaphore(0)

        def wait() -> None:
            parked.release()
            until.wait()

        awaited = 0
        if self.is_of_this_process:
            for _ in self._started - {threading.get_ident()}:
                try:
                    self._executor.submit(self._in_turn, wait)
                except RuntimeError:
                    break
                awaited += 1
        return lambda: [parked.acquire() for _ in range(awaited)]

    def _hold_callers(self) -> None:
        """Let callers wait until the fork is over."""
        self._turn.acquire()
        _held.append(self._turn)

    def _computes_here(self) -> bool:
        """Return whether the calling thread computes its calls itself."""
        # A caller would overtake the calls that wait in the queue, again and again.
        return self._for_callers and not self._queued

    def _in_turn(self, work: Callable[[], _T]) -> _T:
        if not self._for_callers:
            return work()
        with self._turn:
            return work()

    def _start(self) -> None:
        """Start the threads that compute the calls of all others, unless they were started."""
        with STARTING:
            if self._is_closed:
                raise MachineClosed
            if self._started:
                return
            together = threading.Barrier(self._streams)

            def start() -> int:
                together.wait()  # so that every thread of the executor takes one of these tasks
                self._enter()
                return threading.get_ident()

            try:
                started = [self._executor.submit(start) for _ in range(self._streams)]
                self._started = frozenset(each.result() for each in started)
            except BaseException:
                together.abort()
                self._executor.shutdown()
                raise
            for thread in self._started:
                weakref.finalize(self, fallback.forget, thread).atexit = False

    def _enter(self) -> None:
        """Give the calling thread a pool and a virtual machine; callers share one in turn."""
        start_pool(self._threads)
        if not hasattr(self._local, "machine"):
            self._local.machine = self._module["vm_load_executable"]()
            self._local.machine["vm_initialization"](_CPU, 0, self._memory)
            self._local.functions = {}


_machines: weakref.WeakSet[Machine] = weakref.WeakSet()
_held: list[threading.Lock] = []
_forks = 0
_fork_is_over = threading.Event()


def _before_fork() -> None:
    global _fork_is_over
    STARTING.acquire()
    _fork_is_over = threading.Event()
    for parked in [machine.park(_fork_is_over) for machine in list(_machines)]:
        parked()


def _after_in_parent() -> None:
    while _held:
        _held.pop().release()
    _fork_is_over.set()
    STARTING.release()


def _after_in_child() -> None:
    global _forks
    _forks += 1
    _held.clear()
    STARTING.release()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)

"""The threads that an inference runs on."""

from __future__ import annotations

import logging
import os
import threading

import numpy as np
import tvm_ffi

from tvm_sparse.errors import InputError

# TVM's affinity mode in which all worker threads may move between the given cores.
_SHARE_CORES = -3

# How often an idle worker looks for work before it sleeps; this takes some tenths of a millisecond.
# TVM's default is 300000 times, which keeps a core busy for a tenth of a second. Meanwhile the
# threads of another engine share the other cores, and its model may take twice as long.
_SPINS = "1000"

_local = threading.local()

_noted: set[tuple[str, int]] = set()

_log = logging.getLogger(__name__)


def check_threads(threads: int | None) -> None:
    """Refuse what is no number of threads; None means all usable cores.

    Raises
    ------
    InputError
        If `threads` is no whole number, or below 1.
    """
    if threads is not None:
        _check_count("threads", threads)


def check_streams(streams: int) -> None:
    """Refuse what is no number of inferences that may run at once.

    Raises
    ------
    InputError
        If `streams` is no whole number, or below 1.
    """
    _check_count("streams", streams)


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise InputError(f"{name} must be at least 1, got {value}")


def share_of_cores(cores: int, streams: int) -> int:
    """Return the threads of an inference if `streams` of them share `cores` cores."""
    return max(1, cores // streams)


def start_pool(threads: int) -> None:
    """Give the calling thread a TVM thread pool of `threads` threads, itself included."""
    if getattr(_local, "threads", None) == threads:
        return
    cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", _SPINS)  # read by the first worker
    configure = tvm_ffi.get_global_func("runtime.config_threadpool")
    # The number of listed cores is the size of the pool that the first call makes; the second
    # lets its threads move between all cores that the process may use.
    configure(_SHARE_CORES, threads, [cores[i % len(cores)] for i in range(threads)])
    configure(_SHARE_CORES, threads, cores)
    _local.threads = threads


def check_startable(threads: int) -> None:
    """Refuse more threads than the system lets this process start, for which TVM would abort it.

    Raises
    ------
    InputError
        If so many threads that do nothing cannot be started at once.
    """
    end = threading.Event()
    started = []
    try:
        for _ in range(threads):
            started.append(threading.Thread(target=end.wait, daemon=True))
            started[-1].start()
    except (RuntimeError, MemoryError):
        raise InputError(
            f"this process cannot start {threads} threads: the system limits its threads or "
            "its memory; choose fewer threads"
        ) from None
    finally:
        end.set()
    for thread in started:
        thread.join()


def pool_threads() -> int:
    """Return the threads of the calling thread's pool, as `start_pool` was told."""
    return getattr(_local, "threads", len(os.sched_getaffinity(0)))


def note_other_threads(library: str, cut_for: int, threads: int) -> None:
    """Warn, once for each library and number, if its work is cut for another number of threads.

    Parameters
    ----------
    library : str
        The path of the library.
    cut_for : int
        The threads that it was compiled for; 0 if that is not known.
    threads : int
        The threads that it runs on.
    """
    if cut_for in (0, threads) or (library, threads) in _noted:
        return
    _noted.add((library, threads))
    _log.warning(
        "%s: compiled for threads=%d and loaded with threads=%d, which may be slow; compile or "
        "load it with the other number",
        library,
        cut_for,
        threads,
    )

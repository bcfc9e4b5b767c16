"""Processes that end with this one, however it ends, and that run nothing of the current folder."""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PYTHON = (sys.executable, "-P")
"""The command of this Python, without the current folder among the places of modules."""

GB = 10**9

_PR_SET_PDEATHSIG = 1


def start(command: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:
    """Start a process, with the options of `subprocess.Popen`.

    For a process that calls `end_with_parent`, Linux takes the thread that started it for its
    parent. So a thread that lives as long as this process starts all of them.
    """
    process: subprocess.Popen[Any] = (
        _starter().submit(functools.partial(subprocess.Popen, command, **options)).result()
    )
    return process


def end_with_parent() -> None:
    """Let Linux kill this process when its parent ends, even if it is stopped or busy then."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def limit_memory(gigabytes: float) -> None:
    """Let this process, and those that it starts, have no more memory for data than this."""
    limit = int(gigabytes * GB)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most == resource.RLIM_INFINITY or limit < most:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


@functools.cache
def _starter() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "tvm_sparse-children")


# The child of a fork has no such thread.
os.register_at_fork(after_in_child=_starter.cache_clear)

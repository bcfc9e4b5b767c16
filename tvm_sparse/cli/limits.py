"""A verb in a process of its own, which this one watches, with limits of time and of memory.

A hostile model may keep the compiler busy without end, or make it take all memory; and a mistake in
the compiler may end the process. The user gets one line in each case. The child is forked before
anything large is loaded, and it does all the work; the parent waits, and hands signals on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from tvm_sparse.runtime import children

SECONDS = 3600.0
"""How long a model may be compiled by default. The largest that were tried take some minutes."""

_NO_LIMIT = 1e6
"""Seconds that no verb takes."""

GRACE_SECONDS = 3.0
"""Seconds that the child has to remove its temporary files."""

_HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_OF_LLVM = 1
"""The exit status that LLVM ends its process with, and this program never does."""

_FROM_TERMINAL = 128
"""The origin of a signal that the kernel sent (``SI_KERNEL``), to the child as well."""


def declare(command: argparse.ArgumentParser, seconds: float | None = SECONDS) -> None:
    """Declare the options of the limits; `seconds` is the default, None if there is no limit."""
    default = "no limit" if seconds is None else f"{seconds:.0f}"
    command.add_argument(
        "--limit-time", type=_positive, default=seconds, metavar="SECONDS",
        help=f"end with an error after this time (default: {default})",
    )  # fmt: skip
    command.add_argument(
        "--limit-memory", type=_positive, default=_memory_bytes() / children.GB, metavar="GB",
        help="end with an error if more memory is needed (default: that of this machine)",
    )  # fmt: skip


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def in_child(seconds: float | None, gigabytes: float) -> int | None:
    """Go on in a child of this process.

    Parameters
    ----------
    seconds : float or None
        The time that the child may take; None is no limit.
    gigabytes : float
        The memory that it may take for data.

    Returns
    -------
    int or None
        None in the child, and in the parent the exit status, after the child has ended.
    """
    signals = {*_HANDED_ON, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    child = os.fork()
    if child == 0:
        children.end_with_parent()
        children.limit_memory(gigabytes)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    end, is_late = time.monotonic() + (seconds or _NO_LIMIT), False
    asked = 0
    while True:
        found = signal.sigtimedwait(signals, max(end - time.monotonic(), 0))
        if found is None:
            os.kill(child, signal.SIGKILL if is_late else signal.SIGTERM)
            end, is_late = time.monotonic() + GRACE_SECONDS, True
        elif found.si_signo != signal.SIGCHLD:
            asked = asked or found.si_signo
            if found.si_code < _FROM_TERMINAL:
                os.kill(child, found.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            # C++ may abort as the exception of a signal passes through it: the signal ended it.
            if asked and os.WIFSIGNALED(status):
                return 128 + asked
            return _status(status, f"{seconds:g}" if is_late else "", f"{gigabytes:.1f}")


def _status(status: int, late: str, gigabytes: str) -> int:
    """Return the exit status for that of the child, with a line if it did not end by itself."""
    if late:
        text = f"not done after {late} s; give it more with --limit-time"
    elif os.WIFEXITED(status) and os.WEXITSTATUS(status) != _OF_LLVM:
        return os.waitstatus_to_exitcode(status)
    elif os.WIFEXITED(status):
        text = "the compiler gave up; what it said stands above, if it could say something"
    elif os.WTERMSIG(status) in _HANDED_ON:  # it came when Python had given up its handlers
        return 128 + os.WTERMSIG(status)
    elif os.WTERMSIG(status) == signal.SIGKILL:
        text = "the system ended the compiler, probably for want of memory; close other programs"
    else:
        name = signal.Signals(os.WTERMSIG(status)).name
        text = (
            f"the compiler crashed ({name}); if it needed more than {gigabytes} GB, see "
            "--limit-memory, or else please report it, with the model"
        )
    print(f"error: {text}", file=sys.stderr)
    return 2

"""The command line in a forked child, with limits on time and memory, and what became of it.

The child starts at once, as the process that forks it has imported everything.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_sparse.cli import main

SECONDS = 60
"""Seconds of processor time that a child may take."""

_SECONDS_ON_CLOCK = 600
"""The same by the clock, which other programs slow down."""

GB = 10**9

MEMORY = 6 * GB
"""Bytes of data that a child may have."""


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes
    ----------
    status : int
        The exit status, or the number of the signal that ended it, below 0.
    out, err : str
        What it printed.
    left : tuple of str
        Files that it left behind, apart from its result.
    """

    status: int
    out: str
    err: str
    left: tuple[str, ...]


def run(arguments: Sequence[str], folder: Path) -> Ended:
    """Run the command line in an empty folder, whose files ``out.*`` are its results."""
    for name in ("tmp", "home"):
        (folder / name).mkdir()
    before = _files(folder)
    status, out, err = forked(lambda: main.main(arguments), folder)
    left = tuple(
        name for name in sorted(_files(folder) - before) if not Path(name).name.startswith("out.")
    )
    for name in ("tmp", "home"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return Ended(status, out, err, left)


def forked(function: Callable[[], int], folder: Path) -> tuple[int, str, str]:
    """Call a function in a child; return its exit status and what it printed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _be_child(function, folder, out.fileno(), err.fileno())
        status = _waited(child)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return status, texts[0], texts[1]


def _be_child(function: Callable[[], int], folder: Path, out: int, err: int) -> None:
    status = 99
    try:
        os.setsid()
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        nothing = os.open("/dev/null", os.O_RDONLY)
        for source, number in ((nothing, 0), (out, 1), (err, 2)):
            os.dup2(source, number)
        sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        os.chdir(folder)
        os.environ["XDG_DATA_HOME"] = str(folder / "home")
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        status = function()
    # The child must not go on as its parent.
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _waited(child: int) -> int:
    end = time.monotonic() + _SECONDS_ON_CLOCK
    pause = 0.001
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGXCPU


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}

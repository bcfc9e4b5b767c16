"""Builds candidates in parallel and measures them: on this machine or on boards.

Everything that runs generated code, or makes it, does so in another process with a time limit. A
candidate that crashes or hangs is a failed trial; a device that disappears is replaced by another.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvm_sparse.errors import RemoteError, TvmSparseError
from tvm_sparse.runtime.board import Board
from tvm_sparse.runtime.isolated import CommandError, IsolatedProcess, ProcessDied

WORKER = "tvm_sparse.tuning.worker"

BUILD_SECONDS = 60.0
LOAD_SECONDS = 20.0
MEASURE_SECONDS = 120.0
"""Limits of a candidate: to build, to load and run once, and to be measured."""

WAIT_SECONDS = 300.0
"""How long to wait for a free device."""

HOLD_SECONDS = 900.0
"""After how long a device takes itself back, if we should have disappeared."""

ROUND_SECONDS = 0.02
"""How long a candidate runs in a round."""

HOPELESS = 1.5
"""A candidate that takes this many times as long as the one to beat is measured once only."""


class CandidateFailed(TvmSparseError):
    """A candidate cannot be built, raises, or computes something else."""


class SessionLost(TvmSparseError):
    """The process or the device that measured has ended: open it again."""


class DeviceGone(TvmSparseError):
    """No device can be had any more."""


@dataclass(frozen=True)
class Build:
    """How a candidate's library is made.

    Attributes
    ----------
    function : str
        ``"module:name"`` of a function with a parameter `library`, the file that it writes: an
        executable of TVM's virtual machine, whose function ``main`` is what is measured.
    arguments : mapping
        Its other arguments; values of JSON.
    seconds : float
        Limit, if it takes longer than others.
    """

    function: str
    arguments: Mapping[str, Any]
    seconds: float = 0.0


@dataclass(frozen=True)
class Arguments:
    """What candidates are called with.

    Attributes
    ----------
    path : Path
        File of arrays in the order of the function's parameters, as of `numpy.savez`.
    common : tuple of int
        Of each result, how many values of the last axis are the same for all candidates; the others
        may be padding.
    """

    path: Path
    common: tuple[int, ...]


class Builders:
    """Processes that build libraries.

    Parameters
    ----------
    count : int
        Number of processes.
    limit : float
        Seconds that a build may take.
    """

    def __init__(self, count: int, limit: float = BUILD_SECONDS) -> None:
        self._limit = limit
        self._executor = ThreadPoolExecutor(count, "build")
        self._own = threading.local()
        self._processes: list[IsolatedProcess] = []

    def submit(self, build: Build, library: Path) -> Future[Path]:
        """Start to build; the future raises `CandidateFailed` if that fails."""
        return self._executor.submit(self._build, build, library)

    def stop(self) -> None:
        """End what is being built; nothing can be built any more."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        """End all processes."""
        self.stop()
        self._executor.shutdown()
        for process in self._processes:
            process.close()

    def _build(self, build: Build, library: Path) -> Path:
        if not hasattr(self._own, "process"):
            self._own.process = IsolatedProcess(WORKER)
            self._processes.append(self._own.process)
        try:
            self._own.process.call(
                "build",
                max(self._limit, build.seconds),
                function=build.function,
                arguments=dict(build.arguments),
                library=str(library),
            )
        except (CommandError, ProcessDied) as error:
            raise CandidateFailed(f"not built: {error}") from None
        return library


class Device:
    """A place to measure on: this machine.

    Parameters
    ----------
    threads : int
        Threads that candidates run on.
    flush_bytes : int
        Bytes copied between two runs: about twice the private cache.
    """

    name = "this machine"
    is_remote = False
    strikes = 1
    """How often a session may end under a candidate before that is the one to blame."""

    def __init__(self, threads: int, flush_bytes: int) -> None:
        self.threads = threads
        self._flush_bytes = flush_bytes
        self._process = IsolatedProcess(WORKER)

    @contextlib.contextmanager
    def session(self, arguments: Arguments) -> Iterator[Device]:
        """Prepare to measure candidates with the same arguments.

        Raises
        ------
        SessionLost
            If the device disappears while it is prepared.
        DeviceGone
            If there is no device.
        """
        try:
            self._open()
            self._call(
                "set_arguments", LOAD_SECONDS, path=str(arguments.path), common=arguments.common
            )
            yield self
        finally:
            self._leave()

    def load(self, name: str, library: Path) -> None:
        """Load a candidate and compare its outputs with those of the session's first.

        Raises
        ------
        CandidateFailed, SessionLost
        """
        self._call("load", LOAD_SECONDS, name=name, library=str(library))

    def unload(self, name: str) -> None:
        """Forget a candidate.

        Raises
        ------
        SessionLost
        """
        self._call("unload", LOAD_SECONDS, name=name)

    def measure(
        self, names: Sequence[str], rounds: int, hopeless: float = HOPELESS
    ) -> list[tuple[float, ...]]:
        """Run candidates in turns; returns the seconds of every round.

        Those that take `hopeless` times as long as the first get one round; 0: none.

        Raises
        ------
        CandidateFailed, SessionLost
        """
        answer = self._call(
            "measure",
            MEASURE_SECONDS,
            names=list(names),
            rounds=rounds,
            seconds=ROUND_SECONDS,
            hopeless=hopeless,
            flush_bytes=self._flush_bytes,
        )
        return [tuple(times) for times in answer["times"]]

    def stop(self) -> None:
        """End what another thread measures; nothing can be measured any more."""
        self._process.kill()

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _open(self) -> None:
        try:
            self._process.call("open_local", LOAD_SECONDS, threads=self.threads)
        except (CommandError, ProcessDied) as error:
            raise DeviceGone(str(error)) from None

    def _leave(self) -> None:
        """Give back what `_open` took."""

    def _call(self, command: str, limit: float, **arguments: object) -> dict[str, Any]:
        try:
            return self._process.call(command, limit, **arguments)
        except ProcessDied as error:
            raise SessionLost(str(error)) from None
        except CommandError as error:
            failure = error
        try:
            self._process.call("ping", LOAD_SECONDS)
        except (CommandError, ProcessDied):
            raise SessionLost(str(failure)) from None
        raise CandidateFailed(str(failure))


class RemoteDevice(Device):
    """A board; of those of a tracker one at a time, whichever is free.

    Parameters
    ----------
    board : Board
        Where it is found.
    threads, flush_bytes
        As of `Device`.
    """

    is_remote = True
    strikes = 2

    def __init__(self, board: Board, threads: int, flush_bytes: int) -> None:
        super().__init__(threads, flush_bytes)
        self.name = str(board)
        self._board = board

    def _open(self) -> None:
        limits = {"threads": self.threads, "seconds": HOLD_SECONDS}
        try:
            self._board.check()
            self._process.call("open_remote", WAIT_SECONDS, **asdict(self._board), **limits)
        except (CommandError, ProcessDied, RemoteError) as error:
            raise DeviceGone(str(error)) from None

    def _leave(self) -> None:
        with contextlib.suppress(CommandError, ProcessDied):
            self._process.call("close_remote", LOAD_SECONDS)

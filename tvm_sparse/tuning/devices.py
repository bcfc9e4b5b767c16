"""Builds candidates in parallel and measures them, on this machine or on boards.

Code is generated and run in other processes, with time limits. A candidate that crashes or hangs is
a failed trial; another device takes the place of one that disappears.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvm_sparse.dtypes import DType
from tvm_sparse.errors import RemoteError, TvmSparseError
from tvm_sparse.runtime.board import Board
from tvm_sparse.runtime.isolated import CommandError, IsolatedProcess, ProcessDied

WORKER = "tvm_sparse.tuning.worker"

BUILD_SECONDS = 60.0
LOAD_SECONDS = 20.0
MEASURE_SECONDS = 120.0
"""Seconds that a candidate may take to be built, to be loaded and run once, and to be measured."""

WAIT_SECONDS = 300.0
"""Seconds to wait for a free device."""

HOLD_SECONDS = 900.0
"""Seconds after which a board frees itself if this program has disappeared."""

ROUND_SECONDS = 0.02
"""Seconds that a candidate runs in a round."""

HOPELESS = 1.5
"""A candidate that takes this many times as long as the one to beat gets one round."""


TOLERANCES = {DType.FLOAT32: 1e-3, DType.FLOAT16: 1e-2}
"""The largest difference of two candidates' results, as a share of the largest value."""


class CandidateFailed(TvmSparseError):
    """A candidate cannot be built, raises an error, or computes other values."""


class SessionLost(TvmSparseError):
    """The process or the device that measured has ended; it can be opened again."""


class DeviceGone(TvmSparseError):
    """No device is left."""


@dataclass(frozen=True)
class Build:
    """How the library of a candidate is made.

    Attributes
    ----------
    function : str
        ``"module:name"`` of a function with a parameter `library`: the file to which it writes an
        executable of TVM's virtual machine. The function ``main`` of that is measured.
    arguments : mapping
        The function's other arguments, which are values of JSON.
    seconds : float
        The time limit, where it is longer than `BUILD_SECONDS`.
    """

    function: str
    arguments: Mapping[str, Any]
    seconds: float = 0.0


@dataclass(frozen=True)
class Arguments:
    """The arguments that candidates are called with.

    Attributes
    ----------
    path : Path
        A file of `numpy.savez` with arrays in the order of the function's parameters.
    common : tuple of int
        For each result, how many values of the last axis are the same for all candidates; the
        values behind them may be padding.
    tolerance : float
        The largest difference between the results of two candidates, as a share of the largest.
    """

    path: Path
    common: tuple[int, ...]
    tolerance: float = TOLERANCES[DType.FLOAT32]


class Builders:
    """Processes that build libraries.

    Parameters
    ----------
    count : int
        The number of processes.
    limit : float
        The seconds that a build may take.
    """

    def __init__(self, count: int, limit: float = BUILD_SECONDS) -> None:
        self._limit = limit
        self._executor = ThreadPoolExecutor(count, "build")
        self._own = threading.local()
        self._processes: list[IsolatedProcess] = []

    def submit(self, build: Build, library: Path) -> Future[Path]:
        """Start a build; the future raises `CandidateFailed` if the build fails."""
        return self._executor.submit(self._build, build, library)

    def stop(self) -> None:
        """End the builds that run; no other can be started."""
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
        The number of threads that candidates run on.
    flush_bytes : int
        Bytes that are copied between two runs, to fill the private cache with other data.
    """

    name = "this machine"
    is_remote = False
    strikes = 1
    """How often a session may end under a candidate before the candidate counts as failed."""

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
                "set_arguments",
                LOAD_SECONDS,
                path=str(arguments.path),
                common=arguments.common,
                tolerance=arguments.tolerance,
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
        """Run candidates in turns, and return the seconds of each round.

        Candidates that take `hopeless` times as long as the first one get one round; with 0, all
        get all rounds.

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
        """End the measurement of another thread; no other can be started."""
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
        """Give back the device that `_open` took."""

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
    """A board, or whichever board of a tracker is free.

    Parameters
    ----------
    board : Board
        The address of the board or of the tracker.
    threads, flush_bytes
        As `Device` takes them.
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

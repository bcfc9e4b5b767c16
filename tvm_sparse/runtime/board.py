"""Boards: engines on other machines, behind TVM's RPC server.

A board runs ``python -m tvm.exec.rpc_server``, either by itself or under a tracker (``--tracker
HOST:PORT --key NAME``) that hands out whichever board of a kind is free. TVM's client waits without
limit: call these functions in a process that can be ended, as `tvm_sparse.bench.board_worker` is.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import tvm
from tvm import relax, rpc
from tvm.rpc import base

from tvm_sparse.errors import RemoteError
from tvm_sparse.runtime import library

CONNECT_SECONDS = 5.0
"""Seconds that a server or tracker may take to answer."""

HOLD_SECONDS = 3600.0
"""Seconds after which a board frees itself if this program has disappeared."""

_SUMMARY_BYTES = 1 << 24
"""The most bytes of a tracker's list of servers."""

# TVM's affinity mode of one thread per core, the fastest cores first.
_ONE_CORE_EACH = 1


@dataclass(frozen=True)
class Board:
    """The address of a board, or of a tracker of boards.

    Attributes
    ----------
    host : str
        The name or address of the board's RPC server, or of a tracker.
    port : int
        The port of the server or tracker.
    key : str, optional
        The name under which the tracker knows boards of this kind; without it, `host` is the board.
    """

    host: str
    port: int
    key: str | None = None

    def __str__(self) -> str:
        at = f"{self.host}:{self.port}"
        return f"{self.key} at the tracker {at}" if self.key else at

    def check(self) -> int:
        """Return how many boards there are: one, or as many as the tracker knows of this kind.

        Raises
        ------
        RemoteError
            If nobody listens there, the listener is no tracker, or the tracker knows no such key.
        """
        address = (self.host, self.port)
        what = "tracker" if self.key else "RPC server"
        at = f"{self.host}:{self.port}"
        try:
            with socket.create_connection(address, CONNECT_SECONDS) as connection:
                keys = _keys(connection) if self.key else []
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            module = "rpc_tracker" if self.key else "rpc_server"
            raise RemoteError(
                f"no {what} answers at {at} ({reason}); start one there with "
                f"`python -m tvm.exec.{module} --host 0.0.0.0 --port {self.port}`"
            ) from None
        if self.key and self.key not in keys:
            known = ", ".join(sorted(set(keys))) or "none at all"
            raise RemoteError(
                f"the tracker at {at} has no board of key {self.key!r}; it has {known}. Start one "
                f"with `python -m tvm.exec.rpc_server --tracker {at} --key {self.key}` on the board"
            )
        return keys.count(self.key) if self.key else 1

    def connect(self, hold_seconds: float = HOLD_SECONDS) -> rpc.RPCSession:
        """Open a session, and wait for it while others use the board.

        Parameters
        ----------
        hold_seconds : float
            The seconds after which the board ends the session.

        Raises
        ------
        RemoteError
            As `check`; or if the program that answers is no RPC server, or is one that only a
            tracker hands out.
        """
        self.check()
        try:
            if self.key is None:
                return rpc.connect(self.host, self.port, session_timeout=hold_seconds)
            tracker = rpc.connect_tracker(self.host, self.port)
            return tracker.request(self.key, session_timeout=hold_seconds, max_retry=1)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RemoteError(
                f"no session with {self}: {reason}; is it an RPC server of TVM {tvm.__version__}, "
                "and, if it belongs to a tracker, asked for there?"
            ) from None


def _keys(connection: socket.socket) -> list[str]:
    """Return the keys of a tracker's servers.

    Raises
    ------
    OSError
        If the connection breaks, or the answer does not come in time.
    ValueError
        If the answer is not that of a tracker.
    """
    end = time.monotonic() + CONNECT_SECONDS
    magic = struct.pack("<i", base.RPC_TRACKER_MAGIC)
    connection.sendall(magic)
    if _receive(connection, len(magic), end) != magic:
        raise ValueError("what listens there is no tracker")
    base.sendjson(connection, [base.TrackerCode.SUMMARY])
    (size,) = struct.unpack("<i", _receive(connection, 4, end))
    if not 0 < size <= _SUMMARY_BYTES:
        raise ValueError(f"its answer is said to have {size} bytes")
    try:
        _, summary = json.loads(_receive(connection, size, end))
        return [str(server["key"]).removeprefix("server:") for server in summary["server_info"]]
    except (LookupError, RecursionError, TypeError, ValueError):
        raise ValueError("its answer is not that of a tracker") from None


def _receive(connection: socket.socket, size: int, end: float) -> bytes:
    """Return the next `size` bytes; all of them must come until the time `end`."""
    received = b""
    while len(received) < size:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left)
        chunk = connection.recv(min(size - len(received), 1 << 16))
        if not chunk:
            raise ConnectionResetError("it closed the connection")
        received += chunk
    return received


def use_threads(session: rpc.RPCSession, threads: int | None) -> int:
    """Set the threads of parallel loops on a board, one a core, and return their number.

    Lists of cores cannot be passed to a board: its pool is as large as its server's, or smaller.

    Parameters
    ----------
    session : RPCSession
        From `Board.connect`.
    threads : int, optional
        The number of threads; by default as many as the board's server gives.

    Raises
    ------
    RemoteError
        If the board has fewer threads.
    """
    with _clear("the session broke off"):
        if threads is not None:
            session.get_function("runtime.config_threadpool")(_ONE_CORE_EACH, threads)
        found = int(session.get_function("runtime.NumThreads")())
    if threads not in (None, found):
        raise RemoteError(
            f"the board runs {found} threads, not {threads}; start its RPC server with "
            f"the environment variable TVM_NUM_THREADS={threads}"
        )
    return found


class RemoteEngine:
    """A compiled library on a board.

    The library with its weights is sent once; a run sends inputs and fetches outputs.

    Parameters
    ----------
    session : RPCSession
        From `Board.connect`.
    path : Path
        The library, compiled for the board.
    threads : int, optional
        The number of threads of an inference; by default as many as the board's server gives.

    Attributes
    ----------
    info : LibraryInfo
        What the library says about itself.
    threads : int
        Number of threads that an inference runs on.

    Raises
    ------
    RemoteError
        If the board cannot load the library, or has fewer threads.
    LibraryError
        If the library is missing, truncated, damaged, not ours, or of another version.
    """

    def __init__(self, session: rpc.RPCSession, path: Path, threads: int | None = None) -> None:
        self._session = session
        self._device = session.cpu()
        self.threads = use_threads(session, threads)
        self.info, code, weights = library.read_parts(path)
        # The server chooses the loader by the suffix; the user's name does not reach it.
        name = f"library{next(_uploads)}.so"
        with _clear(f"the board cannot load {path.name}; does --target fit it?"):
            session.upload(bytearray(code), name)
            self._machine = relax.VirtualMachine(session.load_module(name), self._device)
            self._weights = [self._sent(weight) for weight in weights]

    def __enter__(self) -> RemoteEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session, so that others can use the board; the engine cannot run any more."""
        self._session.get_function("CloseRPCConnection")()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one inference; all inputs by name, of the right shapes and dtypes.

        Raises
        ------
        RemoteError
            If the session is lost.
        """
        with _clear(_LOST, "the board cannot run the model"):
            tensors = [self._sent(inputs[spec.name]) for spec in self.info.inputs]
            self._machine.set_input("main", *tensors, *self._weights)
            self._machine.invoke_stateful("main")
            result = self._machine.get_outputs("main")
            results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
            names = [spec.name for spec in self.info.outputs]
            return {n: tensor.numpy() for n, tensor in zip(names, results, strict=True)}

    def _sent(self, array: np.ndarray) -> tvm.runtime.Tensor:
        return tvm.runtime.tensor(np.ascontiguousarray(array), self._device)

    def measure(self, runs: int) -> tuple[float, ...]:
        """Return the seconds of `runs` inferences on the inputs of the last `run`.

        The board takes the times, so they do not include the network.

        Raises
        ------
        RemoteError
            If the session is lost.
        """
        with _clear(_LOST, "the board cannot run the model"):
            evaluator = self._machine.time_evaluator(
                "invoke_stateful", self._device, number=1, repeat=runs
            )
            return tuple(evaluator("main").results)


_uploads = itertools.count()

_LOST = (
    "the session was lost while the model ran (the board or its server stopped, the network broke, "
    "or the processor lacks an instruction: does --target fit the board?)"
)


@contextlib.contextmanager
def _clear(message: str, refused: str | None = None) -> Iterator[None]:
    """Turn an error of TVM into one line; `refused` begins it if the board answered."""
    try:
        yield
    except (AttributeError, OSError, RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        answered = refused is not None and "Error caught from RPC call" in lines[0]
        raise RemoteError(f"{refused if answered else message}: {lines[-1]}") from None

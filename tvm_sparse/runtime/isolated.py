"""A Python process that answers commands, each within a time limit, and may crash or hang.

The other side is `serve`, which the process calls with an object whose methods are the commands.
Commands and answers are JSON, one object a line.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from types import TracebackType
from typing import Any

from tvm_sparse.errors import TvmSparseError
from tvm_sparse.runtime import children


class CommandError(TvmSparseError):
    """A command raised an error; the process can take other commands."""


class ProcessDied(TvmSparseError):
    """The process crashed, or was ended because it took too long; the next call starts another."""


class IsolatedProcess:
    """Runs a module of this package in another process, which the first call starts.

    Parameters
    ----------
    module : str
        The name of a module that calls `serve` when it is run.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False
        self._ending = threading.Lock()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> IsolatedProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def call(self, command: str, limit: float, **arguments: object) -> dict[str, Any]:
        """Send a command and return the answer.

        Parameters
        ----------
        command : str
            The name of a method of the object that the process serves.
        limit : float
            The seconds that it may take; the start of a process does not count.
        **arguments
            The arguments of the method, which are values of JSON.

        Raises
        ------
        CommandError
            If the method raised an error.
        ProcessDied
            If the process crashed, or did not answer in time.
        """
        if self._is_over:
            raise ProcessDied("ended")
        process = self._process or self._start()
        assert process.stdin is not None
        request = {"do": command, "limit": limit, "arguments": arguments}
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise ProcessDied(self._epitaph(process)) from None
        line = self._read_line(process, limit, command)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CommandError(answer["error"])
        return answer

    def kill(self) -> None:
        """End the process, even while another thread waits for it; no call starts it again."""
        with self._ending:
            self._is_over = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process; no other thread may be waiting for it."""
        self._is_over = True
        self._end()
        self._log.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._log.seek(0)
        self._log.truncate()
        # The process gets its own session, so that Ctrl-C reaches only this program.
        with self._ending:
            if self._is_over:
                raise ProcessDied("ended")
            process = children.start(
                [*children.PYTHON, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
            )
            self._process = process
        self._read_line(process, _START_SECONDS, "start")
        return process

    def _read_line(self, process: subprocess.Popen[bytes], limit: float, command: str) -> bytes:
        assert process.stdout is not None
        end, line = time.monotonic() + limit, b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(end - time.monotonic(), 0)):
                    self._end()
                    raise ProcessDied(f"{command}: no answer in {limit:g} s")
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise ProcessDied(self._epitaph(process))
                line += chunk
        return line

    def _epitaph(self, process: subprocess.Popen[bytes]) -> str:
        """Return the reason for which a process ended."""
        code = process.wait()
        self._end()
        if code == -signal.SIGALRM:
            return "no answer in time"
        if code < 0:
            return f"crashed: {signal.Signals(-code).name}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"ended with code {code}" + (f": {lines[-1]}" if lines else "")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


_START_SECONDS = 120.0
"""Seconds that a process may take to import its module."""


def serve(commands: object) -> None:
    """Answer commands until standard input ends.

    A command that exceeds its limit ends the process, and so does the end of the caller. Neither
    needs any Python.
    """
    children.end_with_parent()
    # The prints of a command must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    answers.write("{}\n")
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["limit"] + 1)
        try:
            answer = getattr(commands, request["do"])(**request["arguments"]) or {}
        # Every error of a command is an answer.
        except Exception as error:
            traceback.print_exc()
            message = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {message[-1]}"}
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer) + "\n")

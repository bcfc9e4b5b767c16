"""Inference engines in processes of their own, so that no thread pool disturbs another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from tvm_sparse.errors import TvmSparseError
from tvm_sparse.runtime import children

OURS = "tvm-sparse"
"""The name of our engine."""

REFERENCE = "onnxruntime"
"""The engine whose outputs are taken to be right."""

PEERS = (REFERENCE, "deepsparse", "openvino")
"""The other engines."""

IN_FLOAT32 = "-float32"
"""What stands behind the name of an engine that is told to compute in float32, though it would
choose another precision by itself."""

PEERS_VARIABLE = "TVM_SPARSE_PEERS"
"""The environment variable that names the folder of the peers' virtual environments."""

_WORKER = Path(__file__).with_name("peer_worker.py")


class PeerError(TvmSparseError):
    """An engine is not installed, fails, or dies."""


def find_python(engine: str) -> Path:
    """Return the Python that runs `engine`.

    Our engine and ONNX Runtime run in this Python. Any other engine runs in the virtual environment
    ``$TVM_SPARSE_PEERS/<engine>``. No folder is taken for it by default: a program that happens to
    lie in the current folder must not be run.

    Raises
    ------
    PeerError
        If the engine is unknown or its environment does not exist.
    """
    engine = engine.removesuffix(IN_FLOAT32)
    if engine in (OURS, REFERENCE):
        return Path(sys.executable)
    if engine not in PEERS:
        raise PeerError(f"unknown engine {engine!r}; the known ones are {OURS}, {', '.join(PEERS)}")
    if not os.environ.get(PEERS_VARIABLE):
        raise PeerError(
            f"not installed: benchmarks/peers.sh creates a folder of virtual environments; name it "
            f"in {PEERS_VARIABLE}"
        )
    home = Path(os.environ[PEERS_VARIABLE])
    python = (home / engine / "bin" / "python").absolute()
    if not python.exists():
        raise PeerError(
            f"not installed: {home / engine} does not exist; create it with benchmarks/peers.sh "
            f"or name another folder in {PEERS_VARIABLE}"
        )
    return python


class PeerProcess:
    """One engine behind the protocol of `tvm_sparse.bench.peer_worker`.

    Outside of `call` a signal stops the process, since an idle thread pool may spin.

    Parameters
    ----------
    engine : str
        ``"tvm-sparse"`` or one of `PEERS`, which may be `IN_FLOAT32`.

    Raises
    ------
    PeerError
        If the engine is unknown or not installed.
    """

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = children.start(
            [find_python(engine), _WORKER, engine.removesuffix(IN_FLOAT32)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def call(self, command: str, **arguments: object) -> dict[str, Any]:
        """Send a command and return the answer.

        Raises
        ------
        PeerError
            If the engine answers with an error, or its process has ended.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.send_signal(signal.SIGCONT)
            process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"failed: ended with code {process.wait()}: {self._last_words()}")
        process.send_signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"failed: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"

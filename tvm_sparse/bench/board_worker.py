"""Runs a library on a board for `tvm_sparse.bench.on_board`, in a process of its own.

TVM's RPC client has no time limits, and may end the process when a connection breaks.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tvm import rpc

from tvm_sparse.runtime.board import Board, RemoteEngine
from tvm_sparse.runtime.isolated import serve


class Worker:
    """Each method is a command; its result is the answer."""

    session: rpc.RPCSession
    engine: RemoteEngine

    def connect(self, host: str, port: int, key: str | None) -> None:
        """Open a session with a board."""
        self.session = Board(host, port, key).connect()

    def load(self, library: str, threads: int | None) -> dict[str, Any]:
        """Send the library and load it there."""
        start = time.perf_counter()
        self.engine = RemoteEngine(self.session, Path(library), threads)
        seconds = time.perf_counter() - start
        inputs = [asdict(spec) for spec in self.engine.info.inputs]
        return {
            "seconds": seconds,
            "threads": self.engine.threads,
            "inputs": inputs,
            "precision": self.engine.info.precision,
        }

    def run(self, inputs: str, outputs: str) -> None:
        """Run once, on arrays in the order of the inputs, and write the outputs."""
        names = [spec.name for spec in self.engine.info.inputs]
        with np.load(inputs) as arrays:
            values = dict(zip(names, (arrays[key] for key in arrays.files), strict=True))
        np.savez(outputs, *self.engine.run(values).values())

    def measure(self, runs: int) -> dict[str, Any]:
        """Run a number of times on the same inputs."""
        return {"seconds": self.engine.measure(runs)}


if __name__ == "__main__":
    serve(Worker())

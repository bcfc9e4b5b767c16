"""Builds or measures the candidates of the tuner, in a process of its own.

It measures on this machine, or on a board. See `tvm_sparse.tuning.devices` for the other side.
"""

from __future__ import annotations

import gc
import importlib
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax, rpc

from tvm_sparse.cpu.threads import start_pool
from tvm_sparse.runtime import fallback, host_functions  # noqa: F401 (libraries may call them)
from tvm_sparse.runtime.board import Board, use_threads
from tvm_sparse.runtime.isolated import serve

_PILOT_RUNS = 3
"""Runs before the first round, from which the number of runs in a round follows."""

_LONG_SECONDS = 0.1
"""Seconds of a run from which on a candidate runs once in a round."""

_TIMED = "timed"
"""The name of the function that calls ``main`` with the arguments of the session."""


class Worker:
    """Each public method is a command; its result is the answer."""

    def __init__(self) -> None:
        self._session: rpc.RPCSession | None = None
        self._device = tvm.cpu()
        self._arguments: list[Any] = []
        self._common: list[int] = []
        self._expected: list[np.ndarray] = []
        self._machines: dict[str, Any] = {}

    def build(self, function: str, arguments: dict[str, Any], library: str) -> None:
        """Call a function, as ``module:name``, that writes a library.

        The library appears whole or not at all.
        """
        module, _, name = function.partition(":")
        make: Callable[..., None] = getattr(importlib.import_module(module), name)
        path = Path(library)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            make(library=temporary, **arguments)
            temporary.replace(path)

    def open_local(self, threads: int) -> None:
        """Measure on this machine from now on."""
        start_pool(threads)

    def open_remote(
        self, host: str, port: int, key: str | None, threads: int, seconds: float
    ) -> None:
        """Measure on a board from now on; waits until one is free.

        The board frees itself after `seconds`.
        """
        self.close_remote()
        self._session = Board(host, port, key).connect(seconds)
        self._device = self._session.cpu()
        use_threads(self._session, threads)

    def close_remote(self) -> None:
        """Give the board back."""
        # The connection ends when nothing refers to it any more.
        self._arguments, self._machines = [], {}
        self._session, self._device = None, tvm.cpu()
        gc.collect()

    def ping(self) -> None:
        """Raise an error if the device is gone."""
        if self._session is not None:
            self._session.get_function("runtime.NumThreads")()

    def set_arguments(self, path: str, common: Sequence[int], tolerance: float) -> None:
        """Set the arguments of all later candidates, and how their results are compared."""
        with np.load(path) as arrays:
            self._arguments = [tvm.runtime.tensor(arrays[n], self._device) for n in arrays.files]
        self._common, self._tolerance = list(common), tolerance
        self._expected, self._machines = [], {}

    def load(self, name: str, library: str) -> None:
        """Load a candidate, run it once and compare its results with the first one's."""
        if self._session is None:
            module = tvm.runtime.load_module(library)
        else:
            self._session.upload(library)
            module = self._session.load_module(Path(library).name)
        machine = relax.VirtualMachine(module, self._device)
        machine.set_input("main", *self._arguments)
        machine.invoke_stateful("main")
        results = machine.get_outputs("main")
        results = [results] if len(self._common) == 1 else list(results)
        pairs = zip(results, self._common, strict=True)
        actual = [result.numpy()[..., :common] for result, common in pairs]
        self._expected = self._expected or actual
        for a, e in zip(actual, self._expected, strict=True):
            error = np.abs(a - e).max(initial=0) / (np.abs(e).max(initial=0) or 1)
            if not error <= self._tolerance:
                raise ArithmeticError(f"outputs differ by {error:.1e} from another plan's")
        machine.save_function("main", _TIMED, *self._arguments, include_return=False)
        self._machines[name] = machine

    def unload(self, name: str) -> None:
        """Forget a candidate."""
        del self._machines[name]

    def measure(
        self, names: Sequence[str], rounds: int, seconds: float, hopeless: float, flush_bytes: int
    ) -> dict[str, Any]:
        """Run candidates in turns.

        Parameters
        ----------
        names : sequence of str
            Loaded candidates; the first is the one to beat.
        rounds : int
            The number of rounds.
        seconds : float
            About how long a candidate runs in a round, in seconds.
        hopeless : float
            A candidate that takes this many times as long as the first one, before and in the first
            round, is left out of the later rounds. With 0, none is left out.
        flush_bytes : int
            Bytes that are copied between two runs, so that the cache holds other data, as in a
            network.

        Returns
        -------
        dict
            ``times``: for each candidate, the seconds of the fastest run of each round.
        """

        def fastest(name: str, runs: int) -> float:
            evaluator = self._machines[name].module.time_evaluator(
                _TIMED, self._device, number=1, repeat=runs, cache_flush_bytes=flush_bytes
            )
            return min(evaluator().results)

        runs, pilot = {}, {}
        for name in names:
            start = time.perf_counter()
            pilot[name] = fastest(name, _PILOT_RUNS)
            whole = (time.perf_counter() - start) / _PILOT_RUNS
            fewest = _PILOT_RUNS if whole < _LONG_SECONDS else 1
            runs[name] = min(max(int(seconds / whole), fewest), 100)
        times: dict[str, list[float]] = {name: [] for name in names}
        running = list(names)
        for number in range(rounds):
            # Every other round runs backwards, so that no candidate always follows a pause.
            for name in running if number % 2 else reversed(running):
                times[name].append(fastest(name, runs[name]))
            if hopeless and not number:
                limits = hopeless * pilot[names[0]], hopeless * times[names[0]][0]
                running = [
                    name for name in names if pilot[name] < limits[0] or times[name][0] < limits[1]
                ]
        return {"times": [times[name] for name in names]}


if __name__ == "__main__":
    serve(Worker())

"""Runs an engine for some seconds, one request after the other or several at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

_PERCENTILES = (25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9)


def run_for(
    run: Callable[[], object], seconds: float, streams: int = 1
) -> tuple[list[float], float]:
    """Call a function again and again from as many Python threads as there are streams.

    Parameters
    ----------
    run : callable
        Runs one batch.
    seconds : float
        No call starts later; every thread makes at least one.
    streams : int
        The number of threads.

    Returns
    -------
    batches : list of float
        Seconds of each call.
    elapsed : float
        Seconds from the first start to the last end.
    """
    samples: list[list[float]] = [[] for _ in range(streams)]
    errors: list[BaseException] = []
    together = threading.Barrier(streams + 1)

    def work(own: list[float]) -> None:
        together.wait()
        end = time.perf_counter() + seconds
        start = 0.0
        try:
            while start < end:
                start = time.perf_counter()
                run()
                now = time.perf_counter()
                own.append(now - start)
                start = now
        # It is raised again below, in the thread that the caller waits in.
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(own,), daemon=True) for own in samples]
    for thread in threads:
        thread.start()
    together.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - start
    if errors:
        raise errors[0]
    return [sample for own in samples for sample in own], elapsed


def statistics_of(batches: list[float], elapsed: float, batch_size: int) -> dict[str, Any]:
    """Return the items a second, and milliseconds of a batch: median, mean, spread, percentiles."""
    times = 1000 * np.array(batches)
    return {
        "items_per_sec": batch_size * len(batches) / elapsed,
        "seconds_ran": elapsed,
        "iterations": len(batches),
        "median": float(np.median(times)),
        "mean": float(times.mean()),
        "std": float(times.std()),
    } | {f"{share}%": float(np.percentile(times, share)) for share in _PERCENTILES}

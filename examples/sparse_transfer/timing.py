"""How long a network takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def milliseconds(run: Callable[[], Any], runs: int = 50) -> float:
    """Return the time of the fastest of some runs."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)

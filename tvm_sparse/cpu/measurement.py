"""The measurement of this machine: read off curves of bandwidth, kept in the user's data folder.

`tvm_sparse.cpu.probe` measures, and `tvm_sparse.cpu.profile.native` uses the stored measurement.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvm_sparse import files
from tvm_sparse.cpu.memory_system import Bandwidth, MemorySystem
from tvm_sparse.errors import OutputError

VERSION = 1
"""Version of the file, which changes when a field changes its meaning."""

LEAST_POINTS = 3
"""Fewest array sizes of a level's plateau; fewer sizes are the slope between two levels."""

LEAST_STEP = 0.25
"""Least difference between the bandwidths of two levels, as a logarithm: 28 %."""

MOST_LEVELS = 4
"""The most levels that are looked for: L1, L2, L3 and memory."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CpuMeasurement:
    """Caches and speed of this machine.

    Attributes
    ----------
    cpu : str
        The name that the processor gives itself.
    cores : int
        Cores that read at the same time.
    cache_bytes : tuple of int
        Sizes of L1, L2 and L3 as their effect on the bandwidth shows them; L3 is 0 if there is
        none.
    system : MemorySystem
        Clock and bandwidths.
    """

    cpu: str
    cores: int
    cache_bytes: tuple[int, int, int]
    system: MemorySystem


@dataclass(frozen=True)
class Plateau:
    """A level of the memory, as a plateau in the curve of bandwidth over array size.

    Attributes
    ----------
    first, end : int
        Numbers of its first array size, and of the one behind its last.
    rate : float
        Its bandwidth, in the unit of the curve.
    size : float
        Array size at which the curve passes from this level to the next; infinite for the last.
    """

    first: int
    end: int
    rate: float
    size: float


def plateaus(sizes: Sequence[float], rates: Sequence[float]) -> list[Plateau]:
    """Find the levels of the memory in bandwidths over growing arrays.

    The curve is cut so that its pieces are as level as possible: the deviations of the logarithms
    from their piece's median have the least sum. A further piece is worth it if it reduces that sum
    by at least the share of a level with `LEAST_POINTS` sizes and a height of `LEAST_STEP`.

    Parameters
    ----------
    sizes : sequence of float
        Array sizes, in growing order.
    rates : sequence of float
        Bandwidth at each size, in any unit.
    """
    logs = np.log(rates)
    n = len(logs)

    @functools.cache
    def unevenness(first: int, end: int) -> float:
        piece = logs[first:end]
        return float(np.abs(piece - np.median(piece)).sum())

    best: dict[tuple[int, int], tuple[float, list[int]]] = {(0, 0): (0.0, [])}
    for pieces in range(1, MOST_LEVELS + 1):
        for end in range(LEAST_POINTS, n + 1):
            options = [
                (best[pieces - 1, first][0] + unevenness(first, end), first)
                for first in range(end - LEAST_POINTS + 1)
                if (pieces - 1, first) in best
            ]
            if options:
                cost, first = min(options)
                best[pieces, end] = cost, [*best[pieces - 1, first][1], first]
    step = LEAST_POINTS * LEAST_STEP
    found = [
        (best[pieces, n][0] + step * pieces, best[pieces, n][1])
        for pieces in range(1, MOST_LEVELS + 1)
        if (pieces, n) in best
    ]
    _, starts = min(found)
    ends = [*starts[1:], n]
    heights = [float(np.median(logs[a:b])) for a, b in zip(starts, ends, strict=True)]
    result = []
    for i, (first, end) in enumerate(zip(starts, ends, strict=True)):
        size = math.inf
        if end < n:
            size = _crossing(np.log(sizes), logs, first, (heights[i] + heights[i + 1]) / 2)
        result.append(Plateau(first, end, math.exp(heights[i]), size))
    return result


def _crossing(sizes: np.ndarray, rates: np.ndarray, first: int, height: float) -> float:
    """Return the size, from the one numbered `first` on, at which the rate falls below `height`."""
    below = first + int(np.argmax(rates[first:] < height))
    if below == first:
        return float(math.exp(sizes[first]))
    share = (rates[below - 1] - height) / (rates[below - 1] - rates[below])
    return float(math.exp(sizes[below - 1] + share * (sizes[below] - sizes[below - 1])))


def path_of(cpu: str, cores: int) -> Path:
    """Return the file of a processor in the user's data folder."""
    slug = re.sub(r"[^a-z0-9]+", "-", cpu.lower()).strip("-")
    return files.data_folder() / "cpus" / f"{slug}-{cores}.json"


def store(measurement: CpuMeasurement) -> Path:
    """Write a measurement to its file, and return its path.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    path = path_of(measurement.cpu, measurement.cores)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise OutputError(f"{path.parent}: cannot be made: {failure.strerror}") from None
    files.write_json(path, {"version": VERSION} | asdict(measurement))
    return path


def load(cpu: str, cores: int) -> CpuMeasurement | None:
    """Return the stored measurement of a processor, if there is one.

    A damaged file, or one of another version, is left alone; a warning says so.
    """
    try:
        path = path_of(cpu, cores)
    except OutputError:
        return None  # A user without a home folder has stored nothing.
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as failure:
        _ignore(path, f"cannot be read: {failure}")
        return None
    try:
        fields = json.loads(text)
        version = fields.pop("version")
        if version == VERSION:
            return _measurement(fields)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        _ignore(path, "damaged")
        return None
    _ignore(path, f"of version {version}, this tvm_sparse reads {VERSION}")
    return None


def _measurement(fields: dict[str, Any]) -> CpuMeasurement:
    """Return the measurement of a file's fields; a wrong field raises an error of its type."""
    system = fields.pop("system")
    clock_hz = _positive(system.pop("clock_hz"))
    levels = {name: _bandwidth(**level) for name, level in system.items()}
    l1, l2, l3 = (int(size) for size in fields.pop("cache_bytes"))
    cpu, cores = str(fields.pop("cpu")), int(fields.pop("cores"))
    if fields or not 0 < l1 < l2 or l3 < 0:
        raise ValueError("unknown fields, or impossible sizes")
    return CpuMeasurement(cpu, cores, (l1, l2, l3), MemorySystem(clock_hz, **levels))


def _bandwidth(read: float, copy: float, shared: float | None) -> Bandwidth:
    return Bandwidth(
        _positive(read), _positive(copy), None if shared is None else _positive(shared)
    )


def _positive(value: float) -> float:
    if not 0 < float(value) < math.inf:
        raise ValueError(f"{value} is no rate")
    return float(value)


def _ignore(path: Path, why: str) -> None:
    _log.warning(
        "%s: %s; not used. `tvm-sparse targets --measure` measures this machine again", path, why
    )

"""The results of engines on a model, and their ratios."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import numpy as np

from tvm_sparse.bench.multiply_adds import MultiplyAdds
from tvm_sparse.bench.peers import OURS
from tvm_sparse.errors import InputError


def check_turns(rounds: int, seconds: float, iterations: int | None) -> None:
    """Refuse turns in which nothing would be measured.

    Raises
    ------
    InputError
        If there is no round, a turn has no finite length, or no run is asked for.
    """
    if rounds < 1:
        raise InputError(f"rounds must be at least 1, got {rounds}")
    if not 0 <= seconds < math.inf:
        raise InputError(f"seconds must be a number from 0 on, got {seconds}")
    if iterations is not None and iterations < 1:
        raise InputError(f"iterations must be at least 1, got {iterations}")


@dataclass(frozen=True)
class EngineResult:
    """The result of one engine on one model.

    Attributes
    ----------
    engine, version, note : str
        The engine, its version, and its remark on its settings. Behind the name of an engine that
        was told to compute in float32 stands `tvm_sparse.bench.peers.IN_FLOAT32`.
    precision : str
        What it computes in, by the name of the type; empty if that is not known.
    rounds : tuple of tuple of float
        Seconds of every run, round by round; empty if the engine was not timed.
    failure : str
        Why the engine was not timed; empty if it was.
    output_error : float or None
        The largest difference from ONNX Runtime's outputs, as a share of the largest value of that
        output; None if nothing was compared.
    compile_seconds, load_seconds : float
        The time to make the library (0 for engines that compile while they load) and to load it.
    compile_peak_bytes, peak_bytes : int
        The peak resident memory of the compiling process and of the running one.
    library_bytes : int
        The size on disk of the file that is loaded: our library, or the ONNX model.
    """

    engine: str
    version: str = ""
    note: str = ""
    rounds: tuple[tuple[float, ...], ...] = ()
    failure: str = ""
    output_error: float | None = None
    compile_seconds: float = 0.0
    load_seconds: float = 0.0
    compile_peak_bytes: int = 0
    peak_bytes: int = 0
    library_bytes: int = 0
    precision: str = ""

    @property
    def seconds(self) -> np.ndarray:
        """Seconds of every run, in order."""
        return np.array([s for samples in self.rounds for s in samples])

    @property
    def minimum(self) -> float:
        """Seconds of the fastest run."""
        return float(self.seconds.min())

    @property
    def median(self) -> float:
        """Median seconds of a run."""
        return float(np.median(self.seconds))

    @property
    def p99(self) -> float:
        """Seconds that 99 % of the runs stay below."""
        return float(np.quantile(self.seconds, 0.99))


@dataclass(frozen=True)
class Ratio:
    """How many times faster one engine is than another.

    Attributes
    ----------
    of_minima : float
        Ratio of the fastest runs.
    median, low, high : float
        The median, the least and the largest ratio of a round, each of the round's fastest runs.
    """

    of_minima: float
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Several engines on one model with the same inputs and threads.

    Attributes
    ----------
    model : str
        Name of the model.
    threads : int
        Threads of every engine.
    measurements : tuple of EngineResult
        The results, in the order in which the engines were given.
    work : MultiplyAdds or None
        Multiply-adds of one inference; None if only a library was given.
    fma_peak : float
        Peak of one core in float32 operations a second, two for a multiply-add; zero if it is not
        known.
    """

    model: str
    threads: int
    measurements: tuple[EngineResult, ...]
    work: MultiplyAdds | None
    fma_peak: float

    def __getitem__(self, engine: str) -> EngineResult:
        """Return the result of an engine."""
        return next(m for m in self.measurements if m.engine == engine)

    def ratio(self, slow: str, fast: str = OURS) -> Ratio | None:
        """Return how many times faster `fast` is than `slow`; None if one was not timed."""
        found = {m.engine: m for m in self.measurements if m.rounds}
        if slow not in found or fast not in found:
            return None
        pairs = zip(found[slow].rounds, found[fast].rounds, strict=True)
        each = [min(a) / min(b) for a, b in pairs]
        of_minima = found[slow].minimum / found[fast].minimum
        return Ratio(of_minima, statistics.median(each), min(each), max(each))

    def share_of_peak(self, engine: str) -> float | None:
        """Return useful operations (at non-zero weights) a second over the threads' FMA peak.

        The peak is that of vectors of the engine's precision: of float16 twice that of float32.
        Matrix units are faster: bfloat16 has no share, nor has a rate above the peak.
        """
        measurement = self[engine]
        width = {"": 1, "float32": 1, "float16": 2}.get(measurement.precision, 0)
        if self.work is None or not measurement.rounds or not self.fma_peak * width:
            return None
        rate = 2 * self.work.nonzero / measurement.minimum
        share = rate / (width * self.fma_peak * self.threads)
        return share if share <= 1 else None

"""What a benchmark of an engine found."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class BatchBenchmarkResult:
    """One run of a batch.

    Attributes
    ----------
    time_start, time_end : float
        Seconds of a clock.
    batch_size : int
        The number of items.
    inputs, outputs : list of array, optional
        What went in and what came out, if that was to be kept.
    """

    time_start: float
    time_end: float
    batch_size: int
    inputs: list[Any] | None = None
    outputs: list[Any] | None = None

    @property
    def time_elapsed(self) -> float:
        """Seconds of the run."""
        return self.time_end - self.time_start

    @property
    def batches_per_second(self) -> float:
        """Batches a second."""
        return 1.0 / self.time_elapsed

    @property
    def items_per_second(self) -> float:
        """Items a second."""
        return self.batch_size / self.time_elapsed

    @property
    def ms_per_batch(self) -> float:
        """Milliseconds of the batch."""
        return 1000 * self.time_elapsed

    @property
    def ms_per_item(self) -> float:
        """Milliseconds of an item."""
        return self.ms_per_batch / self.batch_size


class BenchmarkResults:
    """All runs of a benchmark, in order."""

    def __init__(self) -> None:
        self.results: list[BatchBenchmarkResult] = []

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> BatchBenchmarkResult:
        return self.results[index]

    def __iter__(self) -> Iterator[BatchBenchmarkResult]:
        return iter(self.results)

    def __repr__(self) -> str:
        return (
            f"BenchmarkResults(items_per_second={self.items_per_second:.4f}, "
            f"ms_per_batch={self.ms_per_batch:.4f}, "
            f"batch_times_mean={self.batch_times_mean:.6f}, "
            f"batch_times_median={self.batch_times_median:.6f}, "
            f"batch_times_std={self.batch_times_std:.6f})"
        )

    def append_batch(
        self,
        time_start: float,
        time_end: float,
        batch_size: int,
        inputs: list[Any] | None = None,
        outputs: list[Any] | None = None,
    ) -> None:
        """Add a run; see `BatchBenchmarkResult`."""
        self.results.append(BatchBenchmarkResult(time_start, time_end, batch_size, inputs, outputs))

    @property
    def batch_times(self) -> list[float]:
        """Seconds of each batch."""
        return [result.time_elapsed for result in self.results]

    @property
    def batch_sizes(self) -> list[int]:
        """The size of each batch."""
        return [result.batch_size for result in self.results]

    @property
    def batch_times_mean(self) -> float:
        """Mean seconds of a batch."""
        return statistics.fmean(self.batch_times)

    @property
    def batch_times_median(self) -> float:
        """Median seconds of a batch."""
        return statistics.median(self.batch_times)

    @property
    def batch_times_std(self) -> float:
        """Standard deviation of a batch's seconds."""
        return statistics.pstdev(self.batch_times)

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        return len(self.results)

    @property
    def num_items(self) -> int:
        """Number of items in all batches."""
        return sum(self.batch_sizes)

    @property
    def batches_per_second(self) -> float:
        """Batches a second."""
        return self.num_batches / sum(self.batch_times)

    @property
    def items_per_second(self) -> float:
        """Items a second."""
        return self.num_items / sum(self.batch_times)

    @property
    def ms_per_batch(self) -> float:
        """Mean milliseconds of a batch."""
        return 1000 * sum(self.batch_times) / self.num_batches

    @property
    def ms_per_item(self) -> float:
        """Mean milliseconds of an item."""
        return 1000 * sum(self.batch_times) / self.num_items

    @property
    def inputs(self) -> list[list[Any] | None]:
        """The inputs of each batch that has them kept."""
        return [result.inputs for result in self.results]

    @property
    def outputs(self) -> list[list[Any] | None]:
        """The outputs of each batch that has them kept."""
        return [result.outputs for result in self.results]

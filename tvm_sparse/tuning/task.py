"""A task of the tuner: the plans to try for one structure, what came out, and where it is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_sparse.records import file
from tvm_sparse.records.file import Key, Plan, Record, Records
from tvm_sparse.tuning.devices import Arguments, Build


@dataclass(frozen=True)
class Task:
    """A region to tune.

    Attributes
    ----------
    name : str
        For people.
    key : Key
        Of its records.
    plans : tuple of Plan
        The cost model's choice, then others to try, the most hopeful first.
    build : callable
        Tells how the library of a plan is built.
    arguments : Arguments
        What the region is called with.
    references : tuple of Plan
        Plans that run in the last turn in any case, besides the cost model's choice.
    """

    name: str
    key: Key
    plans: tuple[Plan, ...]
    build: Callable[[Plan], Build]
    arguments: Arguments
    references: tuple[Plan, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What is known of a region after tuning.

    Attributes
    ----------
    task : Task
        The region.
    default, best : Record or None
        The cost model's choice and the best plan, of the same turn; None if nothing ran.
    trials : int
        Plans that were tried, now or before, failed ones among them.
    records : tuple of Record
        Of all plans with times, the last of each.
    failures : tuple of Record
        Of plans that failed.
    """

    task: Task
    default: Record | None
    best: Record | None
    trials: int
    records: tuple[Record, ...]
    failures: tuple[Record, ...]

    @property
    def gain(self) -> float:
        """How many times faster the best plan is than the default: median of the rounds' ratios."""
        if self.default is None or self.best is None:
            return 1.0
        return file.ratio(self.default, self.best)


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes
    ----------
    done, total : int
        Trials of this run, and all that it will make.
    task : str
        Region of the last trial.
    best, default : float
        Seconds of its best plan so far and of the cost model's choice; NaN if not yet known.
    """

    done: int
    total: int
    task: str
    best: float
    default: float


class Store:
    """Records in memory and in a file.

    Parameters
    ----------
    path : Path
        The file; made with the first record.
    is_plan : callable
        As of `tvm_sparse.records.file.read`.
    """

    def __init__(self, path: Path, is_plan: Callable[[Plan], bool] = lambda plan: True) -> None:
        self.path = path
        self.records = file.read(path, is_plan) if path.exists() else Records()
        self._lock = threading.Lock()

    def add(self, new: Sequence[Record]) -> None:
        """Add the records of a turn, in one piece."""
        with self._lock:
            file.append(self.path, new)
            for record in new:
                self.records.add(record)

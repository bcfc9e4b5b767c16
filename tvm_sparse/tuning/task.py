"""A task of the tuner: the plans to try for one structure, what came out, and where it is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_sparse.records import file
from tvm_sparse.records.file import Records
from tvm_sparse.records.record import Key, Plan, Record
from tvm_sparse.tuning.devices import Arguments, Build


@dataclass(frozen=True)
class Task:
    """The plans to try for one structure.

    Attributes
    ----------
    name : str
        For people.
    key : Key
        The key of the records.
    plans : tuple of Plan
        The cost model's choice, then the other plans, the most hopeful first.
    build : callable
        Returns how the library of a plan is built.
    arguments : Arguments
        The arguments that the libraries are called with.
    references : tuple of Plan
        Plans that always run in the last turn, besides the cost model's choice.
    """

    name: str
    key: Key
    plans: tuple[Plan, ...]
    build: Callable[[Plan], Build]
    arguments: Arguments
    references: tuple[Plan, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What is known of a task after tuning.

    Attributes
    ----------
    task : Task
        The task.
    default, best : Record or None
        The cost model's choice and the best plan, in the same turn; None if nothing ran.
    trials : int
        The number of plans that were tried, now or before; failed ones count.
    records : tuple of Record
        The last record of each plan that has times.
    failures : tuple of Record
        The last record of each plan that failed.
    """

    task: Task
    default: Record | None
    best: Record | None
    trials: int
    records: tuple[Record, ...]
    failures: tuple[Record, ...]

    @property
    def gain(self) -> float:
        """How many times faster the best plan is than the default: the median over the rounds."""
        if self.default is None or self.best is None:
            return 1.0
        return file.ratio(self.default, self.best)


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes
    ----------
    done, total : int
        The number of trials so far, and at the end of this run.
    task : str
        The name of the task of the last trial.
    best, default : float
        Seconds of that task's best plan so far, and of the cost model's choice; NaN if unknown.
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
        The file, which is made with the first record.
    is_plan : callable
        As `tvm_sparse.records.file.read` takes it.
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

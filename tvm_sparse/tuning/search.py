"""What is tried, and left to try, for one task of the tuner."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from tvm_sparse.records.record import Plan, Record
from tvm_sparse.tuning.devices import Builders
from tvm_sparse.tuning.task import Outcome, Store, Task

FINAL_ROUNDS = 15
"""Rounds of the last turn of a task."""

FINALISTS = 4
"""Plans that run in the last turn besides the default."""

CHUNK = 8
"""Trials that are built together, and then measured in one session of a device."""


class Search:
    """What is done, and left to do, for one task."""

    def __init__(self, task: Task, builders: Builders, store: Store, folder: Path) -> None:
        self.task = task
        self._builders = builders
        self._store = store
        self._folder = folder
        self._libraries: dict[str, Future[Path]] = {}
        self._lock = threading.Lock()
        self.strikes: Counter[str] = Counter()
        tried = {plan_name(record.plan) for record in self._records()}
        plans = task.plans
        self.todo = [plan for plan in plans[1:] if plan_name(plan) not in tried]
        if len(plans) == 1 and plan_name(plans[0]) not in tried:
            self.todo = list(plans)
        self.open_chunks = -(-len(self.todo) // CHUNK)

    def library(self, plan: Plan) -> Future[Path]:
        """Return the library of a plan; its build starts at the first call."""
        with self._lock:
            name = plan_name(plan)
            if name not in self._libraries:
                self._folder.mkdir(exist_ok=True)
                path = self._folder / f"{len(self._libraries)}.so"
                self._libraries[name] = self._builders.submit(self.task.build(plan), path)
            return self._libraries[name]

    def incumbent(self) -> Plan:
        """Return the best plan so far, which at first is the cost model's choice."""
        best = self._store.records.best(self.task.key)
        if best is not None:
            return best.plan
        hopeful = (plan for plan in self.task.plans if not self.has_failed(plan))
        return next(hopeful, self.task.plans[0])

    def has_failed(self, plan: Plan) -> bool:
        """Return whether the last record of a plan is a failure."""
        return self._store.records.failed(self.task.key, plan)

    def finalists(self) -> list[Plan]:
        """Return the plans of the last turn: the default, the best and the next few.

        The list is empty if the best plan has won such a turn already.
        """
        best = self._store.records.best(self.task.key)
        if best is None or len(best.seconds) == FINAL_ROUNDS:
            return []
        timed = [r for r in self._records() if r.seconds and not self.has_failed(r.plan)]
        ranked = [r.plan for r in sorted(timed, key=lambda r: float(np.median(r.seconds)))]
        always = [p for p in (self.task.plans[0], *self.task.references) if p in ranked]
        return distinct([*always, best.plan, *ranked])[: FINALISTS + len(always)]

    def outcome(self) -> Outcome:
        """Return what is known so far."""
        known = self._records()
        best = self._store.records.best(self.task.key)
        first = self.task.plans[0]
        default = self._store.records.beside(best, first) if best else None
        others = {plan_name(record.plan) for record in known} - {plan_name(first)}
        last = {plan_name(record.plan): record for record in known}.values()
        timed = tuple(record for record in last if record.seconds)
        failed = tuple(record for record in last if record.failure)
        return Outcome(self.task, default, best, len(others), timed, failed)

    def median(self, plan: Plan) -> float:
        """Return the median seconds of a plan in its last turn; NaN if it was in none."""
        times = [r.seconds for r in self._records() if r.plan == plan and r.seconds]
        return float(np.median(times[-1])) if times else math.nan

    def _records(self) -> list[Record]:
        return self._store.records.of(self.task.key)


def plan_name(plan: Plan) -> str:
    """Return a text that tells plans apart."""
    return json.dumps(dict(plan), sort_keys=True)


def distinct(plans: Iterable[Plan]) -> list[Plan]:
    """Return every plan once, in the order of the first."""
    return list({plan_name(plan): plan for plan in plans}.values())

"""The tuner's loop: plans of regions in, records out.

Each trial is a turn of two: a plan and the best one so far. In the end the best few and the default
run in one longer turn. All that is known is in the records, so that a run that was ended, in
whatever way, is taken up where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tvm_sparse.errors import TuningError
from tvm_sparse.records import file
from tvm_sparse.records.file import Key, Plan, Record, Records
from tvm_sparse.tuning.devices import (
    HOPELESS,
    Arguments,
    Build,
    Builders,
    CandidateFailed,
    Device,
    DeviceGone,
    SessionLost,
)

ROUNDS = 5
"""Rounds of a trial."""

FINAL_ROUNDS = 15
"""Rounds of the last turn, ..."""

FINALISTS = 4
"""... in which this many plans run besides the default."""

CHUNK = 8
"""Trials that are built together, and then measured in one session of a device."""

MOST_LOSSES = 3
"""Sessions in a row that may end without a trial before a device counts as gone."""


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


def run(
    tasks: Iterable[Task],
    devices: Sequence[Device],
    builders: Builders,
    store: Store,
    progress: Callable[[Progress], None] = lambda state: None,
) -> list[Outcome]:
    """Tune regions.

    Parameters
    ----------
    tasks : iterable of Task
        The regions.
    devices : sequence of Device
        Where to measure, all on the same kind of processor; each has a thread of its own.
    builders : Builders
        What builds; waits while this machine measures.
    store : Store
        Plans with a record in it are not tried again.
    progress : callable
        Called after each trial.

    Returns
    -------
    list of Outcome
        One for each task.

    Raises
    ------
    TuningError
        If no device is left; what was measured is in the store.
    """
    with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as folder:
        searches = [
            _Search(task, builders, store, Path(folder) / str(i)) for i, task in enumerate(tasks)
        ]
        _Run(searches, devices, builders, store, progress).wait()
    return [search.outcome() for search in searches]


class _Search:
    """What is done, and left to do, for one region."""

    def __init__(self, task: Task, builders: Builders, store: Store, folder: Path) -> None:
        self.task = task
        self._builders = builders
        self._store = store
        self._folder = folder
        self._libraries: dict[str, Future[Path]] = {}
        self._lock = threading.Lock()
        self.strikes: Counter[str] = Counter()
        tried = {_name(record.plan) for record in self._records()}
        plans = task.plans
        self.todo = [plan for plan in plans[1:] if _name(plan) not in tried]
        if len(plans) == 1 and _name(plans[0]) not in tried:
            self.todo = list(plans)
        self.open_chunks = -(-len(self.todo) // CHUNK)

    def library(self, plan: Plan) -> Future[Path]:
        """Start to build a plan if nobody did."""
        with self._lock:
            name = _name(plan)
            if name not in self._libraries:
                self._folder.mkdir(exist_ok=True)
                path = self._folder / f"{len(self._libraries)}.so"
                self._libraries[name] = self._builders.submit(self.task.build(plan), path)
            return self._libraries[name]

    def incumbent(self) -> Plan:
        """Return the best plan so far; the cost model's choice at first."""
        best = self._store.records.best(self.task.key)
        if best is not None:
            return best.plan
        hopeful = (plan for plan in self.task.plans if not self.has_failed(plan))
        return next(hopeful, self.task.plans[0])

    def has_failed(self, plan: Plan) -> bool:
        """Return whether the last that is known of a plan is a failure."""
        return self._store.records.failed(self.task.key, plan)

    def finalists(self) -> list[Plan]:
        """Return the default, the best plan and the next few; none if the best won such a turn."""
        best = self._store.records.best(self.task.key)
        if best is None or len(best.seconds) == FINAL_ROUNDS:
            return []
        timed = [r for r in self._records() if r.seconds and not self.has_failed(r.plan)]
        ranked = [r.plan for r in sorted(timed, key=lambda r: float(np.median(r.seconds)))]
        always = [p for p in (self.task.plans[0], *self.task.references) if p in ranked]
        return _distinct([*always, best.plan, *ranked])[: FINALISTS + len(always)]

    def outcome(self) -> Outcome:
        """Return what is known by now."""
        known = self._records()
        best = self._store.records.best(self.task.key)
        first = self.task.plans[0]
        default = self._store.records.beside(best, first) if best else None
        others = {_name(record.plan) for record in known} - {_name(first)}
        last = {_name(record.plan): record for record in known}.values()
        timed = tuple(record for record in last if record.seconds)
        failed = tuple(record for record in last if record.failure)
        return Outcome(self.task, default, best, len(others), timed, failed)

    def median(self, plan: Plan) -> float:
        """Return the median seconds of a plan's last turn; NaN if it has none."""
        times = [r.seconds for r in self._records() if r.plan == plan and r.seconds]
        return float(np.median(times[-1])) if times else math.nan

    def _records(self) -> list[Record]:
        return self._store.records.of(self.task.key)


@dataclass
class _Job:
    """Plans of a region for one session of a device: trials, or the last turn if there are none."""

    search: _Search
    plans: deque[Plan] = field(default_factory=deque)
    is_final: bool = False


class _Run:
    """Hands jobs to devices; a device has a thread of its own."""

    def __init__(
        self,
        searches: Sequence[_Search],
        devices: Sequence[Device],
        builders: Builders,
        store: Store,
        progress: Callable[[Progress], None],
    ) -> None:
        self._devices = devices
        self._builders = builders
        self._store = store
        self._progress = progress
        self._change = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._busy = 0
        self._done = 0
        self._total = sum(len(search.todo) for search in searches)
        self._is_over = False
        for search in searches:
            todo = search.todo
            for begin in range(0, len(todo), CHUNK):
                self._jobs.append(_Job(search, deque(todo[begin : begin + CHUNK])))
            if not todo:
                self._jobs.append(_Job(search, is_final=True))

    def wait(self) -> None:
        """Return when all jobs are done, and raise what a device's thread raised."""
        with ThreadPoolExecutor(len(self._devices), "device") as executor:
            threads = [executor.submit(self._serve, device) for device in self._devices]
            try:
                failures = [thread.exception() for thread in threads]
            except BaseException:
                self._end()
                raise
        unexpected = [f for f in failures if f is not None and not isinstance(f, DeviceGone)]
        if unexpected:
            raise unexpected[0]
        if self._jobs:
            raise TuningError(
                f"no device is left ({failures[0]}); {self._done} of {self._total} trials are in "
                f"{self._store.path}: run again to go on"
            )

    def _end(self) -> None:
        with self._change:
            self._is_over = True
            self._change.notify_all()
        self._builders.stop()
        for device in self._devices:
            device.stop()

    def _serve(self, device: Device) -> None:
        """Take jobs until none are left."""
        while (job := self._next()) is not None:
            try:
                self._do(device, job)
            except BaseException as error:
                self._put_back(job)
                if not isinstance(error, DeviceGone):
                    self._end()
                raise
            else:
                self._finish(job)

    def _next(self) -> _Job | None:
        with self._change:
            # A busy device may yet put its job back.
            self._change.wait_for(lambda: self._jobs or not self._busy or self._is_over)
            if self._is_over or not self._jobs:
                return None
            self._busy += 1
            return self._jobs.popleft()

    def _put_back(self, job: _Job) -> None:
        with self._change:
            self._busy -= 1
            self._jobs.appendleft(job)
            self._change.notify_all()

    def _finish(self, job: _Job) -> None:
        with self._change:
            self._busy -= 1
            if not job.is_final:
                job.search.open_chunks -= 1
                if job.search.open_chunks == 0:
                    self._jobs.appendleft(_Job(job.search, is_final=True))
            self._change.notify_all()

    def _do(self, device: Device, job: _Job) -> None:
        """Do a job, in as many sessions as it takes."""
        if job.is_final:
            job.plans = deque(job.search.finalists())
        losses, left = 0, len(job.plans)
        while job.plans and not self._is_over:
            libraries = [job.search.library(p) for p in (*job.plans, job.search.incumbent())]
            if not device.is_remote:
                # Nothing is built while this machine measures.
                wait(libraries)
            try:
                with device.session(job.search.task.arguments):
                    (self._final if job.is_final else self._trials)(device, job)
            except SessionLost as error:
                losses = losses + 1 if len(job.plans) == left else 0
                left = len(job.plans)
                if losses == MOST_LOSSES:
                    raise DeviceGone(str(error)) from None

    def _trials(self, device: Device, job: _Job) -> None:
        """Measure plans one by one, each beside the best one so far."""
        search, loaded = job.search, set[str]()
        while job.plans and not self._is_over:
            plan = job.plans[0]
            if not search.has_failed(plan):
                pair = _distinct([search.incumbent(), plan])
                if not all(self._load(device, search, p, loaded) for p in pair):
                    continue
                self._turn(device, search, pair, ROUNDS)
            job.plans.popleft()
            for name in loaded - {_name(search.incumbent())}:
                device.unload(name)
                loaded.remove(name)
            self._report(search)

    def _final(self, device: Device, job: _Job) -> None:
        """Measure the best few side by side."""
        loaded = set[str]()
        plans = [plan for plan in job.plans if self._load(device, job.search, plan, loaded)]
        if len(plans) > 1:
            self._turn(device, job.search, plans, FINAL_ROUNDS)
        job.plans.clear()

    def _load(self, device: Device, search: _Search, plan: Plan, loaded: set[str]) -> bool:
        """Return whether a plan is loaded; if it cannot be, that is on record."""
        name = _name(plan)
        if name not in loaded:
            with self._blame(device, search, plan):
                device.load(name, search.library(plan).result())
                loaded.add(name)
        return name in loaded

    def _turn(self, device: Device, search: _Search, plans: Sequence[Plan], rounds: int) -> None:
        """Measure loaded plans side by side and record their times."""
        with self._blame(device, search, plans[-1]):
            names = [_name(plan) for plan in plans]
            times = device.measure(names, rounds, HOPELESS if rounds == ROUNDS else 0)
            turn, key, now = secrets.token_hex(8), search.task.key, time.time()
            # The milliseconds tell their order, also in a file whose lines were sorted.
            self._store.add(
                [
                    Record(key, plan, seconds, turn, at=now + i / 1000)
                    for i, (plan, seconds) in enumerate(zip(plans, times, strict=True))
                ]
            )

    @contextlib.contextmanager
    def _blame(self, device: Device, search: _Search, plan: Plan) -> Iterator[None]:
        """Record a failure of what is done inside as the plan's."""
        try:
            yield
        except CandidateFailed as error:
            self._fail(search, plan, str(error))
        except SessionLost as error:
            search.strikes[_name(plan)] += 1
            if not self._is_over and search.strikes[_name(plan)] >= device.strikes:
                self._fail(search, plan, str(error))
            raise

    def _fail(self, search: _Search, plan: Plan, reason: str) -> None:
        self._store.add([Record(search.task.key, plan, (), secrets.token_hex(8), reason)])

    def _report(self, search: _Search) -> None:
        best = search.median(search.incumbent())
        default = search.median(search.task.plans[0])
        with self._change:
            self._done += 1
            state = Progress(self._done, self._total, search.task.name, best, default)
            self._progress(state)


def _name(plan: Plan) -> str:
    return json.dumps(dict(plan), sort_keys=True)


def _distinct(plans: Iterable[Plan]) -> list[Plan]:
    return list({_name(plan): plan for plan in plans}.values())

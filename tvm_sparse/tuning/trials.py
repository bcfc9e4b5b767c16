"""The tuner's loop: tasks in, records out.

Each trial is a turn of two: a plan and the best one so far. At the end of a task the best few plans
and the default run in one longer turn. All that is known is in the records, so that a run that was
ended, in whatever way, goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tvm_sparse.errors import TuningError
from tvm_sparse.files import scratch_folder
from tvm_sparse.records.record import Plan, Record
from tvm_sparse.tuning.devices import (
    HOPELESS,
    Builders,
    CandidateFailed,
    Device,
    DeviceGone,
    SessionLost,
)
from tvm_sparse.tuning.search import CHUNK, FINAL_ROUNDS, Search, distinct, plan_name
from tvm_sparse.tuning.task import Outcome, Progress, Store, Task

ROUNDS = 5
"""Rounds of a trial."""

MOST_LOSSES = 3
"""Sessions in a row that may end without a trial before a device counts as gone."""


def run(
    tasks: Iterable[Task],
    devices: Sequence[Device],
    builders: Builders,
    store: Store,
    progress: Callable[[Progress], None] = lambda state: None,
) -> list[Outcome]:
    """Try the plans of tasks.

    Parameters
    ----------
    tasks : iterable of Task
        The tasks.
    devices : sequence of Device
        The devices to measure on, all with the same kind of processor; each has its own thread.
    builders : Builders
        They build the libraries; they wait while this machine measures.
    store : Store
        Holds the records; plans that have one are not tried again.
    progress : callable
        Called after each trial.

    Returns
    -------
    list of Outcome
        One outcome for each task.

    Raises
    ------
    TuningError
        If no device is left; the store has what was measured until then.
    """
    with scratch_folder() as folder:
        searches = [Search(task, builders, store, folder / str(i)) for i, task in enumerate(tasks)]
        _Run(searches, devices, builders, store, progress).wait()
    return [search.outcome() for search in searches]


@dataclass
class _Job:
    """Plans of a task for one session of a device: trials, or those of the last turn."""

    search: Search
    plans: deque[Plan] = field(default_factory=deque)
    is_final: bool = False


class _Run:
    """Hands jobs to devices, each of which has a thread."""

    def __init__(
        self,
        searches: Sequence[Search],
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
        """Wait until all jobs are done, and raise the error of a device's thread, if any."""
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
        """Do a job, in as many sessions of the device as it takes."""
        if job.is_final:
            job.plans = deque(job.search.finalists())
        losses, left = 0, len(job.plans)
        while job.plans and not self._is_over:
            libraries = [job.search.library(p) for p in (*job.plans, job.search.incumbent())]
            if not device.is_remote:
                # A build on this machine would disturb the measurement.
                _wait(libraries)
            try:
                with device.session(job.search.task.arguments):
                    (self._final if job.is_final else self._trials)(device, job)
            except SessionLost as error:
                losses = losses + 1 if len(job.plans) == left else 0
                left = len(job.plans)
                if losses == MOST_LOSSES:
                    raise DeviceGone(str(error)) from None

    def _trials(self, device: Device, job: _Job) -> None:
        """Measure plans one by one, each in a turn with the best plan so far."""
        search, loaded = job.search, set[str]()
        while job.plans and not self._is_over:
            plan = job.plans[0]
            if not search.has_failed(plan):
                pair = distinct([search.incumbent(), plan])
                if not all(self._load(device, search, p, loaded) for p in pair):
                    continue
                self._turn(device, search, pair, ROUNDS)
            job.plans.popleft()
            for name in loaded - {plan_name(search.incumbent())}:
                device.unload(name)
                loaded.remove(name)
            self._report(search)

    def _final(self, device: Device, job: _Job) -> None:
        """Measure the best few plans in one turn."""
        loaded = set[str]()
        plans = [plan for plan in job.plans if self._load(device, job.search, plan, loaded)]
        if len(plans) > 1:
            self._turn(device, job.search, plans, FINAL_ROUNDS)
        job.plans.clear()

    def _load(self, device: Device, search: Search, plan: Plan, loaded: set[str]) -> bool:
        """Load a plan, if it is not loaded; return False and record the failure if that fails."""
        name = plan_name(plan)
        if name not in loaded:
            with self._blame(device, search, plan):
                device.load(name, search.library(plan).result())
                loaded.add(name)
        return name in loaded

    def _turn(self, device: Device, search: Search, plans: Sequence[Plan], rounds: int) -> None:
        """Measure loaded plans in one turn and record their times."""
        with self._blame(device, search, plans[-1]):
            names = [plan_name(plan) for plan in plans]
            times = device.measure(names, rounds, HOPELESS if rounds == ROUNDS else 0)
            turn, key, now = secrets.token_hex(8), search.task.key, time.time()
            # The milliseconds keep the order of the turn in a file whose lines were sorted.
            self._store.add(
                [
                    Record(key, plan, seconds, turn, at=now + i / 1000)
                    for i, (plan, seconds) in enumerate(zip(plans, times, strict=True))
                ]
            )

    @contextlib.contextmanager
    def _blame(self, device: Device, search: Search, plan: Plan) -> Iterator[None]:
        """Record a failure inside the context as a failure of the plan."""
        try:
            yield
        except CandidateFailed as error:
            self._fail(search, plan, str(error))
        except SessionLost as error:
            search.strikes[plan_name(plan)] += 1
            if not self._is_over and search.strikes[plan_name(plan)] >= device.strikes:
                self._fail(search, plan, str(error))
            raise

    def _fail(self, search: Search, plan: Plan, reason: str) -> None:
        self._store.add([Record(search.task.key, plan, (), secrets.token_hex(8), reason)])

    def _report(self, search: Search) -> None:
        best = search.median(search.incumbent())
        default = search.median(search.task.plans[0])
        with self._change:
            self._done += 1
            state = Progress(self._done, self._total, search.task.name, best, default)
            self._progress(state)


def _wait(libraries: Sequence[Future[Path]]) -> None:
    """Wait until libraries are built, or could not be.

    `concurrent.futures.wait` would not wake when builds are cancelled.
    """
    for library in libraries:
        with contextlib.suppress(CancelledError):
            library.exception()

"""Sessions in threads of their own, whose single tokens are computed in one call."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.errors import InputError
from tvm_sparse.runtime.session import Session, step_sessions

PATIENCE = 0.1
"""The share of a step's time that a token waits for those of other sessions. It lost at most as
much, and each that comes costs little more than none."""


@dataclass
class _Job:
    """A token that waits, and what became of it."""

    session: Session
    token: int
    logits: NDArray[np.float32] | None = None
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Together:
    """Collects the tokens that sessions step at the same time.

    One thread computes the tokens of all that wait; the others wait for it. A thread that comes
    first waits a little for those whose sessions are at work, too.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._computing = threading.Lock()
        self._waiting: list[_Job] = []
        self._writers = 0
        self._seconds = 0.0
        self.calls = 0

    def step(self, session: Session, token: int) -> NDArray[np.float32]:
        """Append a token to a session; return the logits behind it, float32 ``(1, vocabulary)``.

        Raises
        ------
        Exception
            What `Session.step` raises; it does not concern the sessions that step with this one.
        """
        job = _Job(session, token)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()
        with self._computing:
            if not job.done.is_set():
                self._compute(self._collected())
        if job.error is not None:
            raise job.error
        assert job.logits is not None
        return job.logits

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Say that a session steps token after token, so that others wait for its next one."""
        with self._changed:
            self._writers += 1
        try:
            yield
        finally:
            with self._changed:
                self._writers -= 1
                self._changed.notify_all()

    def _collected(self) -> list[_Job]:
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._waiting) >= self._writers, PATIENCE * self._seconds
            )
            jobs, self._waiting = self._waiting, []
        return jobs

    def _compute(self, jobs: list[_Job]) -> None:
        start = time.perf_counter()
        self.calls += 1
        try:
            logits = step_sessions([job.session for job in jobs], [job.token for job in jobs])
            for job, row in zip(jobs, logits, strict=True):
                job.logits = row[None]
        except InputError:
            # Nothing was computed; each alone tells whose token it is.
            for job in jobs:
                _compute_alone(job)
        # Whatever happens in a call happens to all of them.
        except Exception as error:
            for job in jobs:
                job.error = error
        finally:
            for job in jobs:
                job.done.set()
        self._seconds = time.perf_counter() - start


def _compute_alone(job: _Job) -> None:
    try:
        job.logits = job.session.step([job.token])
    except Exception as error:
        job.error = error


class Member:
    """A session of a model that several threads use; `generate` takes it like any other.

    Parameters
    ----------
    session : Session
        The session, which nobody else steps.
    together : Together
        Computes its single tokens.
    """

    def __init__(self, session: Session, together: Together) -> None:
        self._session, self._together = session, together

    @property
    def position(self) -> int:
        """The number of tokens that were read."""
        return self._session.position

    def step(self, ids: Sequence[int], last_only: bool = False) -> NDArray[np.float32]:
        """Read tokens as `Session.step` does: a single one together with those of others."""
        if len(ids) == 1:
            return self._together.step(self._session, ids[0])
        return self._session.step(ids, last_only)

    def rewind(self, count: int) -> None:
        """Forget the last tokens."""
        self._session.rewind(count)

"""Tuning records: what was measured, one JSON object a line, in a file that only grows.

A record holds the times of one plan in one *turn*, in which several plans for the same structure
ran alternately. Times of the same turn are compared with each other where that is possible, since
a machine is faster at one hour than at the next. Files are merged with ``cat``. They hold no
weights.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from tvm_sparse.errors import RecordsError
from tvm_sparse.files import data_folder, open_regular, writable_target
from tvm_sparse.records.record import Key, Plan, Record

LEAST_LEAD = 0.005
"""Share of the time by which a plan must be faster; smaller differences may be noise."""

ROUNDS_TO_WIN = 0.8
"""Share of a turn's rounds in which a plan must be faster: 4 of 5."""


_log = logging.getLogger(__name__)


def default_path() -> Path:
    """Return the file of records in the user's data folder."""
    return data_folder() / "records.jsonl"


def append(path: Path, records: Iterable[Record]) -> None:
    """Add records to a file, all of them or none; the file is made if there is none.

    Several processes may do so at once. After a line that was cut off, a new one is started.

    Raises
    ------
    RecordsError
        If the file cannot be written.
    """
    text = "".join(record.to_json() + "\n" for record in records).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writable_target(path, RecordsError).open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file.fileno()).st_size
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                text = b"\n" + text
            try:
                while text:
                    text = text[file.write(text) or 0 :]
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise RecordsError(f"{path}: cannot be written: {error.strerror or error}") from None


def check_file(path: Path, others: Iterable[Path] = ()) -> None:
    """Raise an error before a long computation if records cannot be added to a file.

    Parameters
    ----------
    path : Path
        The file of records, which need not exist.
    others : iterable of Path
        Files that are read for another purpose.

    Raises
    ------
    RecordsError
        If `path` cannot be written, is one of `others`, or holds something else than records.
    """
    target = writable_target(path, RecordsError, others)
    try:
        with target.open("rb") as file:
            start = file.read(1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RecordsError(f"{path}: cannot be read: {error.strerror or error}") from error
    if start not in (b"", b"{"):
        raise RecordsError(f"{path}: holds no tuning records; choose another name")


def read(path: Path, is_plan: Callable[[Plan], bool] = lambda plan: True) -> Records:
    """Read a file of records; lines that cannot be used are left out, with one warning.

    Parameters
    ----------
    path : Path
        The file.
    is_plan : callable
        Returns whether a plan with these fields can be used.

    Raises
    ------
    RecordsError
        If the file is missing or cannot be read.
    """
    try:
        with open_regular(path, RecordsError) as source:
            content = source.read()
    except OSError as error:
        raise RecordsError(f"{path}: cannot be read: {error.strerror or error}") from error
    records, faults = [], []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = Record.from_json(line.decode())
        except UnicodeDecodeError:
            faults.append(f"line {number} is damaged")
        except ValueError as fault:
            faults.append(f"line {number} is {fault}")
        else:
            if is_plan(record.plan):
                records.append(record)
            else:
                faults.append(f"line {number} is of a plan that this tvm-sparse does not know")
    if faults:
        more = f" (and {len(faults) - 1} other lines)" if len(faults) > 1 else ""
        _log.warning("%s: %s%s; the other %d records are used", path, faults[0], more, len(records))
    return Records(records)


class Records:
    """Records in memory, by key.

    Parameters
    ----------
    records : iterable of Record
        In any order; duplicates are dropped.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._by_key: dict[Key, list[Record]] = {}
        self._lines: set[str] = set()
        for record in records:
            self.add(record)

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, record: Record) -> None:
        """Add a record."""
        line = record.to_json()
        if line not in self._lines:
            self._lines.add(line)
            self._by_key.setdefault(record.key, []).append(record)

    def of(self, key: Key) -> list[Record]:
        """Return the records of a key, the oldest first."""
        return sorted(self._by_key.get(key, []), key=lambda record: record.at)

    def failed(self, key: Key, plan: Plan) -> bool:
        """Return whether the last record of a plan is a failure."""
        own = [record for record in self.of(key) if record.plan == plan]
        return bool(own and own[-1].failure)

    def beside(self, record: Record, plan: Plan) -> Record | None:
        """Return the record of a plan in the same turn as another one; None if it has none."""
        turn = (r for r in self.of(record.key) if r.turn == record.turn and r.plan == plan)
        return next(turn, None)

    def best(self, key: Key) -> Record | None:
        """Return the record of the best plan; None if nothing was measured.

        Turns are read in the order of time. In each, the other plans must beat the first one. The
        winner replaces the best plan so far if both ran in that turn; if they did not, as in the
        records of two machines, the faster one stays. Plans that have failed since do not count.
        """
        turns: dict[str, list[Record]] = {}
        for record in self.of(key):
            if record.seconds and not self.failed(key, record.plan):
                turns.setdefault(record.turn, []).append(record)
        best: Record | None = None
        for first, *others in turns.values():
            won = winner(first, others)
            held = best is not None and any(r.plan == best.plan for r in (first, *others))
            if best is None or held or np.median(won.seconds) < np.median(best.seconds):
                best = won
        return best


def ratio(record: Record, other: Record) -> float:
    """Return how many times as long as `other` a plan takes: the median over a turn's rounds."""
    # A plan that was hopeless has fewer rounds.
    pairs = zip(record.seconds, other.seconds, strict=False)
    return float(np.median([a / b for a, b in pairs]))


def winner(first: Record, others: Sequence[Record]) -> Record:
    """Return the fastest of `others` if it is faster than `first` beyond the spread, else `first`.

    All of them must be of the same turn.
    """
    faster = [record for record in others if beats(record.seconds, first.seconds)]
    return min(faster, key=lambda record: float(np.median(record.seconds)), default=first)


def beats(seconds: Sequence[float], others: Sequence[float]) -> bool:
    """Return whether times are shorter than `others` beyond the spread of the rounds' ratios.

    Ratios are taken round by round: a slow phase of the machine hits both and cancels out.
    """
    rounds = min(len(seconds), len(others))
    ratios = np.divide(seconds[:rounds], others[:rounds])
    return bool(np.quantile(ratios, ROUNDS_TO_WIN) < 1 - LEAST_LEAD)

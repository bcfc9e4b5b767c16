"""A tuning record: one plan's times in one turn, and the line of JSON that holds it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

VERSION = 2
"""The version of the lines; another one when plans' fields, or the texts of keys, change."""

Plan = Mapping[str, "int | str"]
"""The fields of a plan: of a kernel, of lanes, of a region's columns, or of a model's choices."""


@dataclass(frozen=True)
class Key:
    """What a record is about; records of another key never serve in its place.

    Attributes
    ----------
    structure : str
        What was measured, as `tvm_sparse.records.keys` names it: a region, a layer, a network on
        tokens or a model, by sizes and a bucket of the density; no weights.
    target : str
        The processor, by what plans depend on.
    threads : int
        The number of threads that it ran on.
    """

    structure: str
    target: str
    threads: int


@dataclass(frozen=True)
class Record:
    """One plan in one turn.

    Attributes
    ----------
    key : Key
        Structure, target and threads.
    plan : mapping of str to int or str
        The plan's fields.
    seconds : tuple of float
        The time of each round of the turn, in the same order for all plans of the turn; empty after
        a failure.
    turn : str
        The name of the turn.
    failure : str
        Why there are no times; empty if there are some.
    at : float
        When it was measured, in seconds since 1970.
    """

    key: Key
    plan: Plan
    seconds: tuple[float, ...]
    turn: str
    failure: str = ""
    at: float = field(default_factory=time.time)

    def to_json(self) -> str:
        """Return the line that `from_json` reads."""
        content = {
            "version": VERSION,
            "structure": self.key.structure,
            "target": self.key.target,
            "threads": self.key.threads,
            "plan": dict(self.plan),
            "seconds": [float(f"{s:.6g}") for s in self.seconds],
            "turn": self.turn,
            "at": round(self.at, 3),
        }
        if self.failure:
            content["failure"] = self.failure
        return json.dumps(content)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Return the record in a line.

        Raises
        ------
        ValueError
            If the line is damaged or of another version; the message says which.
        """
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):  # of JSON, or of a number with too many digits
            raise ValueError("damaged") from None
        if not isinstance(content, dict):
            raise ValueError("damaged")
        version = content.pop("version", None)
        if version != VERSION:
            raise ValueError(
                f"of version {version}, and this tvm-sparse reads {VERSION}: tune again"
            )
        try:
            return cls._checked(**content)
        except (TypeError, OverflowError):  # JSON has numbers that no float can hold.
            raise ValueError("damaged") from None

    @classmethod
    def _checked(
        cls,
        structure: str,
        target: str,
        threads: int,
        plan: dict[str, int | str],
        seconds: list[float],
        turn: str,
        at: float,
        failure: str = "",
    ) -> Record:
        texts = (structure, target, turn, failure)
        if not (
            all(isinstance(text, str) for text in texts)
            and type(threads) is int
            and isinstance(plan, dict)
            and all(type(value) in (int, str) for value in plan.values())
            and isinstance(seconds, list)
            and all(type(s) in (int, float) and 0 < s < math.inf for s in seconds)
            and type(at) in (int, float)
            and math.isfinite(at)
            and bool(seconds) != bool(failure)
        ):
            raise ValueError("damaged")
        key = Key(structure, target, threads)
        return cls(key, plan, tuple(float(s) for s in seconds), turn, failure, float(at))


def digest(text: str) -> str:
    """Return a short name of a text, for keys."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]

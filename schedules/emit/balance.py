"""How work is cut whose size only an inference knows, so that all cores have about as much of it.

Where there are fewer rows than cores, each core computes a part of the channels of a row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

if TYPE_CHECKING:
    from tvm.ir import Expr

BALANCED_JOBS = 8
"""Jobs of a core from which on the last jobs, which few cores have, take little of all time."""


_part: ContextVar[tuple[Expr, Expr] | None] = ContextVar("part", default=None)


@contextlib.contextmanager
def sharing(part: Expr, parts: Expr) -> Iterator[None]:
    """Let `each_piece` visit the pieces of one of some equal parts of the channels only."""
    token = _part.set((part, parts))
    try:
        yield
    finally:
        _part.reset(token)


@contextlib.contextmanager
def each_piece(count: int) -> Iterator[Expr]:
    """Open the loop over `count` pieces of the channels, or over those of a part, see `sharing`."""
    shared = _part.get()
    if shared is None:
        with T.serial(T.int64(0), T.int64(count)) as piece:
            yield piece
        return
    part, parts = shared
    first = T.bind(part * count // parts)
    with T.serial(T.int64(0), T.bind((part + 1) * count // parts - first)) as i:
        yield T.bind(first + i)


def is_balanced(jobs: Expr, cores: int) -> Expr:
    """Return whether equal jobs keep all cores busy for about as long."""
    return T.Or(jobs % cores == 0, jobs >= BALANCED_JOBS * cores)


def parts_of(jobs: Expr, parts: int) -> Expr:
    """Return into how many parts each job is cut: `parts`, one for a core, or 1 if none needs it.

    With a part of each job for every core, all cores have equal work.
    """
    return T.Select(is_balanced(jobs, parts), T.int64(1), T.int64(parts))


def columns_of(images: Expr, height: Expr, most_rows: int, cores: int) -> Expr:
    """Return into how many columns, of `most_rows` rows at most, an image of some height is cut."""
    least = (height + (most_rows - 1)) // most_rows
    jobs = images * least
    images = T.max(images, T.int64(1))  # there may be no images
    even = (jobs + (cores - 1)) // cores * cores
    more = T.min(height, (even + (images - 1)) // images)
    return T.Select(is_balanced(jobs, cores), least, more)

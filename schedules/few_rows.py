"""The stages of a region one by one, for calls that have fewer rows than there are cores.

The loops::

    for stage:
        for image, row, part of the channels in parallel:
            the part of the row

A tensor column computes all channels of its rows on one core, so that the other cores would wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.balance import parts_of, sharing
from tvm_sparse.schedules.emit.buffers import opaque
from tvm_sparse.schedules.emit.panel_memory import Panels
from tvm_sparse.schedules.emit.rolling_panels import RollingPanels
from tvm_sparse.schedules.emit.row_vectors import copy_rows
from tvm_sparse.schedules.stage import Stage

if TYPE_CHECKING:
    from tvm.ir import Expr


def one_by_one(
    stages: Sequence[Stage],
    scratch: Mapping[int, RollingPanels],
    stored: Mapping[int, Panels],
    images: Expr,
    height: Expr,
    cores: int,
) -> None:
    """Compute all rows of all stages, each of which has ``images * height`` rows.

    Parameters
    ----------
    stages : sequence of Stage
        The stages, with their operands.
    scratch, stored : mapping of int to Panels
        The memory of the stages whose results other stages read, and of those whose results are
        outputs, by the number of the stage.
    images, height : Expr
        The number of images, and of the rows of each.
    cores : int
        More than there are rows.
    """
    for panels in scratch.values():
        panels.allocate_all(cores - 1)
    rows = images * height
    for i, stage in enumerate(stages):
        _compute(stage, scratch[i] if i in scratch else stored[i], height, rows)
        if i in scratch and i in stored:
            with T.parallel(T.int64(0), rows) as job, T.sblock("copy"):
                row = T.axis.spatial(rows, job)
                T.reads()
                T.writes()
                place = opaque(row // height), opaque(row % height)
                copy_rows(scratch[i], stored[i], place[0], place[1], place[1] + 1)


def _compute(stage: Stage, y: Panels, height: Expr, rows: Expr) -> None:
    count, parts = rows, opaque(parts_of(rows, stage.parts)) if stage.parts > 1 else None
    if parts is not None:
        count = opaque(rows * parts)
    elif stage.chunks > 1:
        count = opaque(rows * stage.chunks)
    with T.parallel(T.int64(0), count) as job, T.sblock(stage.name):
        at = T.axis.spatial(count, job)
        T.reads()
        T.writes()
        chunk = None
        part: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if parts is not None:
            part = sharing(opaque(at % parts), parts)
            at = at // parts
        elif stage.chunks > 1:
            chunk = opaque(at % stage.chunks)
            at = at // stage.chunks
        image, row = opaque(at // height), opaque(at % height)
        stage.allocate({1})
        with part:
            stage.compute(y, image, row, row + 1, chunk)

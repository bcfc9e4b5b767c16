"""The parts that all generated loop nests share: a loop over jobs, and tiles that overlap."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.rates import PARALLEL_ITERATIONS
from tvm_sparse.schedules.default.reduction import loads

if TYPE_CHECKING:
    from tvm.ir import Expr


@contextlib.contextmanager
def each_job(count: int, iterations: int, name: str, value: Expr, out: Expr) -> Iterator[Expr]:
    """Open the outermost loop, parallel if that pays, and a block that accesses whole buffers.

    Parameters
    ----------
    count : int
        Number of jobs.
    iterations : int
        Number of times that all jobs together compute `value`.
    name : str
        Name of the block.
    value : Expr
        An expression with all loads of the block.
    out : Buffer
        The buffer that the block writes.
    """
    kind = T.parallel if iterations >= PARALLEL_ITERATIONS and count > 1 else T.serial
    with kind(T.int64(0), T.int64(count)) as i, T.sblock(name):
        job = T.axis.spatial(T.int64(count), i)
        T.reads(*(_whole(source) for source in dict.fromkeys(load.source for load in loads(value))))
        T.writes(_whole(out))
        yield job


def clipped(start: Expr, highest: int) -> Expr:
    """Return the start of a tile, moved back if the tile would end beyond the last element."""
    return T.min(start, T.int64(highest))


def _whole(buffer: Expr) -> Expr:
    return buffer[tuple(slice(0, extent) for extent in buffer.shape)]

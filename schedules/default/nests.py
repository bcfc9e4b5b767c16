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
def each_job(
    count: int | Expr, iterations: int | Expr, name: str, value: Expr, out: Expr
) -> Iterator[Expr]:
    """Open the outermost loop, parallel if that pays, and a block that accesses whole buffers.

    Parameters
    ----------
    count : int or Expr
        Number of jobs.
    iterations : int or Expr
        Number of times that all jobs together compute `value`. A number that is not known counts as
        one that pays.
    name : str
        Name of the block.
    value : Expr
        An expression with all loads of the block.
    out : Buffer
        The buffer that the block writes.
    """
    pays = not isinstance(iterations, int) or iterations >= PARALLEL_ITERATIONS
    is_single = isinstance(count, int) and count <= 1
    kind = T.parallel if pays and not is_single else T.serial
    jobs = T.int64(count) if isinstance(count, int) else count
    with kind(T.int64(0), jobs) as i, T.sblock(name):
        job = T.axis.spatial(jobs, i)
        T.reads(*(_whole(source) for source in dict.fromkeys(load.source for load in loads(value))))
        T.writes(_whole(out))
        yield job


def clipped(start: Expr, highest: int) -> Expr:
    """Return the start of a tile, moved back if the tile would end beyond the last element."""
    return T.min(start, T.int64(highest))


def _whole(buffer: Expr) -> Expr:
    return buffer[tuple(slice(0, extent) for extent in buffer.shape)]

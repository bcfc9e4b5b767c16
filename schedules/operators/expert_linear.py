"""Linear layers of experts: each row is multiplied by the weight of the expert it is sent to.

The tiles of all experts' weights follow one another. The rows of an expert are gathered, so that
each of its weights is read once for several rows; an expert without rows is not touched::

    for job in parallel: for expert in experts:
        mine = [row for row in rows if experts_of[row] == expert]
        for tile in tiles of job: for rows of mine that fit in registers:
            y[rows, tile] = products            # see `row_product`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import Registers, argument, scratch, whole
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.row_product import (
    DenseRowProduct,
    RowProduct,
    SparseRowProduct,
    store_products,
)

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.sizes.expert_linear import ExpertLinear
    from tvm_sparse.tilings.row_linear import RowTiling


def expert_linear(problem: ExpertLinear, tiling: RowTiling) -> tvm.tirx.PrimFunc:
    """Build the kernel of a layer with dense weights.

    Parameters
    ----------
    problem : ExpertLinear
        The sizes.
    tiling : RowTiling
        How the output channels and the rows of an expert are cut.

    Returns
    -------
    PrimFunc
        ``(x [rows, K], experts_of [rows], weight [experts * tiles, K, vectors * width],
        y [rows, N])``: float32, but `experts_of` is int64, and numbers out of range are clipped.
    """
    return _kernel("expert_linear", problem, DenseRowProduct, tiling)


def sparse_expert_linear(problem: ExpertLinear, tiling: RowTiling) -> tvm.tirx.PrimFunc:
    """Build the kernel of a layer with sparse weights.

    Parameters
    ----------
    problem, tiling
        As `expert_linear` takes them.

    Returns
    -------
    PrimFunc
        ``(x [rows, K], experts_of [rows], starts, windows, places, values, y [rows, N])``, as
        above; the weight's arrays are those of a `WindowSparse` of one matrix.
    """
    return _kernel("sparse_expert_linear", problem, SparseRowProduct, tiling)


def _kernel(
    name: str, problem: ExpertLinear, kind: type[RowProduct], tiling: RowTiling
) -> tvm.tirx.PrimFunc:
    rows, experts, n, k = problem.rows, problem.experts, problem.n, problem.k
    product = kind(problem.of_one_expert, tiling, experts)
    tiles, jobs = tiling.tiles(n), tiling.jobs
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x, experts_of = argument("x", rows, k), argument("experts_of", rows, dtype="int64")
        read = [(x, (rows, k)), (experts_of, (rows,)), *product.declare()]
        y = argument("y", rows, n)
        loop = T.parallel if jobs > 1 else T.serial
        with loop(T.int64(0), T.int64(jobs)) as i, T.sblock(name):
            job = T.axis.spatial(T.int64(jobs), i)
            T.reads(*(whole(*operand) for operand in read))
            T.writes(whole(y, (rows, n)))
            sums = Registers(tiling.rows * tiling.vectors, tiling.width)
            mine, count = scratch(rows, "int64"), T.alloc_buffer((T.int64(1),), "int64")
            first, end = (T.bind((job + i) * tiles // jobs) for i in range(2))
            with T.serial(T.int64(0), T.int64(experts)) as expert:
                gather(experts_of, problem, expert, mine, count)
                found = T.bind(count[T.int64(0)])
                with T.If(found > 0), T.Then(), T.serial(T.int64(0), end - first) as ahead:
                    tile = T.bind(first + ahead)
                    channel = T.bind(T.min(tile * tiling.units, T.int64(n - tiling.units)))
                    at = T.bind(expert * tiles + tile)
                    for start, turns, height in _runs(found, tiling.rows):
                        with T.serial(T.int64(0), turns) as turn:
                            of = [T.bind(mine[start + turn * height + r]) for r in range(height)]
                            buffers = x, None, None, y
                            store_products(product, Epilogue(), buffers, at, channel, of, sums)
    return builder.get()


def gather(experts_of: Expr, problem: ExpertLinear, expert: Expr, mine: Expr, count: Expr) -> None:
    """Store the rows that are sent to an expert, and how many they are."""
    last = T.int64(problem.experts - 1)
    T.buffer_store(count, T.int64(0), [T.int64(0)])
    with T.serial(T.int64(0), T.int64(problem.rows)) as row:
        # Every row has an expert, whatever its number, so that all of `y` is written.
        of = T.min(T.max(experts_of[row], T.int64(0)), last)
        with T.If(of == expert), T.Then():
            place = T.bind(count[T.int64(0)])
            T.buffer_store(mine, row, [place])
            T.buffer_store(count, place + T.int64(1), [T.int64(0)])


def _runs(count: Expr, most: int) -> list[tuple[Expr, Expr, int]]:
    """Return the first row, the repetitions and the height of blocks that cover `count` rows.

    As many blocks as possible have the height `most`; each half of it follows at most once or so.
    """
    runs, start, height = [], T.int64(0), most
    while height:
        turns = T.bind((count - start) // height)
        runs.append((start, turns, height))
        start = T.bind(start + turns * height)
        height //= 2
    return runs

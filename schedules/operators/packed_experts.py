"""The frame of the kernels that multiply rows by the packed weights of their experts.

The groups of all experts' weights follow one another. The rows of an expert are copied together, a
few at a time, so that each of its weights is read once for them::

    for job in parallel: for expert in experts:
        mine = [row for row in rows if experts_of[row] == expert]
        for some of mine:
            prepare(x[some])
            for group of output channels of job:
                y[some, group] = product(group of expert)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.formats.groups import GROUP
from tvm_sparse.schedules.emit.buffers import argument, scratch, vector, whole
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.expert_linear import gather
from tvm_sparse.schedules.operators.packed_rows import Declared, PackedProduct, Results

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.sizes.expert_linear import ExpertLinear

_LANES = 8


def packed_experts(
    name: str, problem: ExpertLinear, product: PackedProduct, height: int, jobs: int
) -> tvm.tirx.PrimFunc:
    """Build a kernel.

    Parameters
    ----------
    name : str
        Its name.
    problem : ExpertLinear
        The sizes.
    product : PackedProduct
        The product of `height` rows and the weights of all experts, each of which has whole groups.
    height : int
        Rows of an expert that are computed together.
    jobs : int
        Equal parts of an expert's groups for different threads.

    Returns
    -------
    PrimFunc
        ``(x [rows, K], experts_of [rows], the product's arrays, y [rows, N])``, float32 but for
        the arrays and `experts_of`, which is int64.
    """
    rows, n, k = problem.rows, problem.n, problem.k
    groups = -(-n // GROUP)
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x, experts_of = argument("x", rows, k), argument("experts_of", rows, dtype="int64")
        read: Declared = [(x, (rows, k)), (experts_of, (rows,)), *product.declare()]
        y = argument("y", rows, n)
        loop = T.parallel if jobs > 1 else T.serial
        with loop(T.int64(0), T.int64(jobs)) as i, T.sblock(name):
            job = T.axis.spatial(T.int64(jobs), i)
            T.reads(*(whole(*operand) for operand in read))
            T.writes(whole(y, (rows, n)))
            mine, count = scratch(rows, "int64"), T.alloc_buffer((T.int64(1),), "int64")
            some = T.alloc_buffer((T.int64(height), T.int64(k)), "float32")
            first, end = (T.bind((job + i) * groups // jobs) for i in range(2))
            with T.serial(T.int64(0), T.int64(problem.experts)) as expert:
                gather(experts_of, problem, expert, mine, count)
                found = T.bind(count[T.int64(0)])
                with T.serial(T.int64(0), (found + (height - 1)) // height) as turn:
                    start = T.bind(turn * height)
                    _copy(x, some, [_row(mine, start + r, found) for r in range(height)], k)
                    product.prepare(some)
                    with T.serial(T.int64(0), end - first) as ahead:
                        group = T.bind(first + ahead)
                        results = Results(n, Epilogue(), (None, None, y), group)

                        def store(row: Expr, values: list[Expr]) -> None:
                            # Behind the last row, the last one is computed again.
                            results.store(_row(mine, start + row, found), values)

                        product.compute(T.bind(expert * groups + group), store)
    return builder.get()


def _row(mine: Expr, place: Expr, found: Expr) -> Expr:
    return T.bind(mine[T.min(place, found - 1)])


def _copy(x: Expr, some: Expr, rows: list[Expr], k: int) -> None:
    """Copy rows of `x` to `some`."""
    vectors, left = divmod(k, _LANES)
    for r, row in enumerate(rows):
        if vectors:
            with T.serial(T.int64(0), T.int64(vectors)) as v:
                at = vector(v * _LANES, _LANES)
                T.buffer_store(some, x[row, at], [T.int64(r), at])
        for column in range(k - left, k):
            T.buffer_store(some, x[row, T.int64(column)], [T.int64(r), T.int64(column)])

"""Linear layers on a few rows: the output channels lie in the lanes of the vectors.

Where the tokens of a panel would fill a small part of its lanes, the rows stay as they are, and a
vector holds the sums of neighbouring output channels, see `row_product`::

    for tile in parallel: for rows that fit in registers:
        y[rows, tile] = products

The last tile overlaps the one before it, so that all vectors are whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import Registers, argument, whole
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.tiles import each_tile
from tvm_sparse.schedules.operators.row_product import (
    DenseRowProduct,
    RowProduct,
    SparseRowProduct,
    store_products,
)

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.sizes.linear import Linear
    from tvm_sparse.tilings.row_linear import RowTiling


def row_linear(problem: Linear, tiling: RowTiling, epilogue: Epilogue) -> tvm.tirx.PrimFunc:
    """Build the kernel of a dense layer.

    Parameters
    ----------
    problem : Linear
        The sizes; the panels have one lane.
    tiling : RowTiling
        How output channels and rows are cut.
    epilogue : Epilogue
        The operators that follow the product.

    Returns
    -------
    PrimFunc
        ``(x [rows, K], weight [tiles, K, vectors * width], [bias [N]], [residual [rows, N]],
        y [rows, N])``, float32 but the weight, which is of the type `problem.weight_dtype`.
    """
    return _kernel("row_linear", DenseRowProduct(problem, tiling), epilogue)


def sparse_row_linear(problem: Linear, tiling: RowTiling, epilogue: Epilogue) -> tvm.tirx.PrimFunc:
    """Build the kernel of a sparse layer.

    Parameters
    ----------
    problem, tiling, epilogue
        As `row_linear` takes them.

    Returns
    -------
    PrimFunc
        ``(x [rows, K], starts, windows, places, values, [bias [N]], [residual [rows, N]],
        y [rows, N])``, activations float32, the weight's arrays as in `WindowSparse`.
    """
    return _kernel("sparse_row_linear", SparseRowProduct(problem, tiling), epilogue)


def _kernel(name: str, product: RowProduct, epilogue: Epilogue) -> tvm.tirx.PrimFunc:
    problem, tiling = product.problem, product.tiling
    rows, n, k = problem.rows, problem.n, problem.k
    tiles, units, jobs = tiling.tiles(n), tiling.units, tiling.jobs
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", rows, k)
        read = [(x, (rows, k)), *product.declare()]
        bias, residual = epilogue.declare(rows, n, read)
        y = argument("y", rows, n)
        loop = T.parallel if jobs > 1 else T.serial
        with loop(T.int64(0), T.int64(jobs)) as i, T.sblock(name):
            job = T.axis.spatial(T.int64(jobs), i)
            T.reads(*(whole(*operand) for operand in read))
            T.writes(whole(y, (rows, n)))
            sums = Registers(tiling.rows * tiling.vectors, tiling.width)
            first, end = (T.bind((job + i) * tiles // jobs) for i in range(2))
            with T.serial(T.int64(0), end - first) as ahead:
                tile = T.bind(first + ahead)
                channel = T.bind(T.min(tile * units, T.int64(n - units)))

                def visit(first: Expr, count: int) -> None:
                    visited = [T.bind(first + r) for r in range(count)]
                    buffers = x, bias, residual, y
                    store_products(product, epilogue, buffers, tile, channel, visited, sums)

                each_tile(rows, tiling.rows, visit)
    return builder.get()

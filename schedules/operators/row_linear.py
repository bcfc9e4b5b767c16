"""Linear layers on a few rows: the output channels lie in the lanes of the vectors.

Where the tokens of a panel would fill a small part of its lanes, the rows stay as they are, and a
vector holds the sums of neighbouring output channels::

    for tile in parallel: for rows that fit in registers:   # output channels of some vectors
        sums[row, :] = bias[tile]
        for k in channels: sums[row, :] += x[row, k] * weight[tile, k, :]
        y[row, tile] = activation(sums[row, :] + residual[row, tile])

A sparse weight is read in the steps of a `WindowSparse`, in which each output channel has at most
one non-zero. A permutation of two vectors of `x` finds the factors of a vector of them. The last
tile overlaps the one before it, so that all vectors are whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import (
    Registers,
    across,
    argument,
    converted,
    filled,
    vector,
)
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.tiles import each_tile
from tvm_sparse.schedules.emit.windows import WINDOW_ARRAYS, multiply_windows

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
    return _kernel("row_linear", _Dense(problem, tiling), epilogue)


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
    return _kernel("sparse_row_linear", _Sparse(problem, tiling), epilogue)


class _Product(ABC):
    """The product of some rows and a weight."""

    def __init__(self, problem: Linear, tiling: RowTiling) -> None:
        self.problem, self.tiling = problem, tiling

    @abstractmethod
    def declare(self) -> list[tuple[Expr, Sequence[int | Expr]]]:
        """Declare the weight; return its buffers and their shapes."""

    @abstractmethod
    def multiply(self, x: Expr, rows: Sequence[Expr], tile: Expr, sums: Registers) -> None:
        """Add the products of some rows and the weight of a tile to `sums`, row by row."""


class _Dense(_Product):
    def declare(self) -> list[tuple[Expr, Sequence[int | Expr]]]:
        shape = self.tiling.tiles(self.problem.n), self.problem.k, self.tiling.units
        self.weight = argument("weight", *shape, dtype=self.problem.weight_dtype)
        return [(self.weight, shape)]

    def multiply(self, x: Expr, rows: Sequence[Expr], tile: Expr, sums: Registers) -> None:
        width, vectors = self.tiling.width, self.tiling.vectors
        with T.serial(T.int64(0), T.int64(self.problem.k)) as k:
            factors = [T.bind(across(x[row, k], width)) for row in rows]
            for v in range(vectors):
                stored = self.weight[tile, k, vector(T.int64(v * width), width)]
                weight = T.bind(converted(stored, self.problem.dtype))
                for r, factor in enumerate(factors):
                    i = r * vectors + v
                    sums[i] = sums[i] + factor * weight


class _Sparse(_Product):
    def declare(self) -> list[tuple[Expr, Sequence[int | Expr]]]:
        steps = tvm.tirx.Var("steps", "int64")
        tiling = self.tiling
        shapes = (
            (1, tiling.tiles(self.problem.n) + 1),
            (steps,),
            (steps, tiling.width),
            (steps, tiling.vectors, tiling.width),
        )
        dtypes = ("int32", "int32", "int32", "float32")
        self.arrays = [
            argument(name, *shape, dtype=dtype)
            for name, shape, dtype in zip(WINDOW_ARRAYS, shapes, dtypes, strict=True)
        ]
        return list(zip(self.arrays, shapes, strict=True))

    def multiply(self, x: Expr, rows: Sequence[Expr], tile: Expr, sums: Registers) -> None:
        def part(row: int, place: Expr) -> Expr:
            return x[rows[row], vector(place, self.tiling.width)]

        starts, *steps = self.arrays
        first, end = (T.bind(T.Cast("int64", starts[T.int64(0), tile + i])) for i in range(2))
        multiply_windows((first, end), steps, part, len(rows), self.tiling.vectors, sums)


def _kernel(name: str, product: _Product, epilogue: Epilogue) -> tvm.tirx.PrimFunc:
    problem, tiling = product.problem, product.tiling
    rows, n, k = problem.rows, problem.n, problem.k
    tiles, units, jobs = tiling.tiles(n), tiling.units, tiling.jobs
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", rows, k)
        read = [(x, (rows, k)), *product.declare()]
        bias = argument("bias", n) if epilogue.bias else None
        if bias is not None:
            read.append((bias, (n,)))
        residual = argument("residual", rows, n) if epilogue.residual else None
        if residual is not None:
            read.append((residual, (rows, n)))
        y = argument("y", rows, n)
        loop = T.parallel if jobs > 1 else T.serial
        with loop(T.int64(0), T.int64(jobs)) as i, T.sblock(name):
            job = T.axis.spatial(T.int64(jobs), i)
            T.reads(*(_whole(*operand) for operand in read))
            T.writes(_whole(y, (rows, n)))
            sums = Registers(tiling.rows * tiling.vectors, tiling.width)
            first, end = (T.bind((job + i) * tiles // jobs) for i in range(2))
            with T.serial(T.int64(0), end - first) as ahead:
                tile = T.bind(first + ahead)
                channel = T.bind(T.min(tile * units, T.int64(n - units)))
                _visit(product, epilogue, (x, bias, residual, y), tile, channel, sums)
    return builder.get()


def _visit(
    product: _Product,
    epilogue: Epilogue,
    buffers: tuple[Expr, Expr | None, Expr | None, Expr],
    tile: Expr,
    channel: Expr,
    sums: Registers,
) -> None:
    """Compute the output channels of a tile, from `channel` on, for all rows."""
    x, bias, residual, y = buffers
    width, vectors = product.tiling.width, product.tiling.vectors

    def visit(first: Expr, count: int) -> None:
        rows = [T.bind(first + r) for r in range(count)]
        places = [vector(channel + v * width, width) for v in range(vectors)]
        for r in range(count):
            for v, place in enumerate(places):
                sums[r * vectors + v] = filled(0, width) if bias is None else bias[place]
        product.multiply(x, rows, tile, sums)
        for r, row in enumerate(rows):
            for v, place in enumerate(places):
                value = sums[r * vectors + v]
                if residual is not None:
                    value = value + residual[row, place]
                T.buffer_store(y, epilogue.activate(T.bind(value)), [row, place])

    each_tile(product.problem.rows, product.tiling.rows, visit)


def _whole(buffer: Expr, shape: Sequence[int | Expr]) -> Expr:
    return buffer[tuple(slice(0, extent) for extent in shape)]

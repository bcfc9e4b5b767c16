"""The products of a few rows and a tile of output channels, dense and sparse.

The output channels lie in the lanes of the vectors::

    sums[row, :] = bias[tile]
    for k in channels: sums[row, :] += x[row, k] * weight[tile, k, :]
    y[row, tile] = activation(sums[row, :] + residual[row, tile])

A sparse weight is read in the steps of a `WindowSparse`, in which each output channel has at most
one non-zero. A permutation of two vectors of `x` finds the factors of a vector of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tvm
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import (
    Registers,
    across,
    argument,
    converted,
    filled,
    vector,
)
from tvm_sparse.schedules.emit.windows import WINDOW_ARRAYS, multiply_windows

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.schedules.emit.epilogue import Epilogue
    from tvm_sparse.sizes.linear import Linear
    from tvm_sparse.tilings.row_linear import RowTiling


class RowProduct(ABC):
    """The product of some rows and a weight.

    Parameters
    ----------
    problem : Linear
        The sizes of one matrix.
    tiling : RowTiling
        How output channels and rows are cut.
    matrices : int
        Matrices whose tiles follow one another.
    """

    def __init__(self, problem: Linear, tiling: RowTiling, matrices: int = 1) -> None:
        self.problem, self.tiling = problem, tiling
        self.tiles = matrices * tiling.tiles(problem.n)

    @abstractmethod
    def declare(self) -> list[tuple[Expr, Sequence[int | Expr]]]:
        """Declare the weight; return its buffers and their shapes."""

    @abstractmethod
    def multiply(self, x: Expr, rows: Sequence[Expr], tile: Expr, sums: Registers) -> None:
        """Add the products of some rows and the weight of a tile to `sums`, row by row."""


class DenseRowProduct(RowProduct):
    """The product of some rows and a dense weight."""

    def declare(self) -> list[tuple[Expr, Sequence[int | Expr]]]:
        """Declare the weight ``[tiles, K, vectors * width]``."""
        shape = self.tiles, self.problem.k, self.tiling.units
        self.weight = argument("weight", *shape, dtype=self.problem.weight_dtype)
        return [(self.weight, shape)]

    def multiply(self, x: Expr, rows: Sequence[Expr], tile: Expr, sums: Registers) -> None:
        """Add the products, input channel by input channel."""
        width, vectors = self.tiling.width, self.tiling.vectors
        with T.serial(T.int64(0), T.int64(self.problem.k)) as k:
            factors = [T.bind(across(x[row, k], width)) for row in rows]
            for v in range(vectors):
                stored = self.weight[tile, k, vector(T.int64(v * width), width)]
                weight = T.bind(converted(stored, self.problem.dtype))
                for r, factor in enumerate(factors):
                    i = r * vectors + v
                    sums[i] = sums[i] + factor * weight


class SparseRowProduct(RowProduct):
    """The product of some rows and a sparse weight."""

    def declare(self) -> list[tuple[Expr, Sequence[int | Expr]]]:
        """Declare the arrays of a `WindowSparse`."""
        steps = tvm.tirx.Var("steps", "int64")
        tiling = self.tiling
        shapes = (
            (1, self.tiles + 1),
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
        """Add the products, step by step."""

        def part(row: int, place: Expr) -> Expr:
            return x[rows[row], vector(place, self.tiling.width)]

        starts, *steps = self.arrays
        first, end = (T.bind(T.Cast("int64", starts[T.int64(0), tile + i])) for i in range(2))
        multiply_windows((first, end), steps, part, len(rows), self.tiling.vectors, sums)


def store_products(
    product: RowProduct,
    epilogue: Epilogue,
    buffers: tuple[Expr, Expr | None, Expr | None, Expr],
    tile: Expr,
    channel: Expr,
    rows: Sequence[Expr],
    sums: Registers,
) -> None:
    """Compute the output channels of a tile for some rows.

    Parameters
    ----------
    product : RowProduct
        The weight.
    epilogue : Epilogue
        The operators that follow the product.
    buffers : tuple
        ``x [rows, K]``, the bias ``[N]`` and the residual ``[rows, N]`` or None, ``y [rows, N]``.
    tile, channel : Expr
        The tile of the weight, and its first output channel.
    rows : sequence of Expr
        The rows of `x`, the residual and `y`.
    sums : Registers
        Holds the vectors of a tile for each row.
    """
    x, bias, residual, y = buffers
    width, vectors = product.tiling.width, product.tiling.vectors
    places = [vector(channel + v * width, width) for v in range(vectors)]
    for r in range(len(rows)):
        for v, place in enumerate(places):
            sums[r * vectors + v] = filled(0, width) if bias is None else bias[place]
    product.multiply(x, rows, tile, sums)
    for r, row in enumerate(rows):
        for v, place in enumerate(places):
            value = sums[r * vectors + v]
            if residual is not None:
                value = value + residual[row, place]
            T.buffer_store(y, epilogue.activate(T.bind(value)), [row, place])

"""The frame of the kernels that multiply a few rows by a weight packed in groups of channels.

Every thread computes some of the groups::

    for thread in parallel:
        prepare(x)
        for group of output channels:
            y[:, group] = activation(product(group) + bias + residual)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.formats.groups import GROUP
from tvm_sparse.schedules.emit.buffers import argument, vector, whole
from tvm_sparse.schedules.emit.epilogue import Epilogue

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.sizes.block_linear import BlockLinear

Declared: TypeAlias = "list[tuple[Expr, Sequence[int | Expr]]]"
"""Buffers and their shapes."""

Store: TypeAlias = "Callable[[Expr, list[Expr]], None]"
"""Takes a row and the vectors of its sums for all channels of a group."""


Frame: TypeAlias = "Callable[[str, BlockLinear, PackedProduct, int, Epilogue], tvm.tirx.PrimFunc]"
"""Makes a function of a product, as `packed_rows` does."""


class PackedProduct(ABC):
    """The product of some rows and a packed weight, group by group."""

    @abstractmethod
    def declare(self) -> Declared:
        """Declare the weight's arrays; return them with their shapes."""

    @abstractmethod
    def prepare(self, x: Expr) -> None:
        """Emit what a thread does with its rows ``[rows, K]`` before the first group."""

    @abstractmethod
    def compute(self, group: Expr, store: Store) -> None:
        """Emit the product of all rows and a group, and store it row by row."""


def packed_rows(
    name: str, problem: BlockLinear, product: PackedProduct, jobs: int, epilogue: Epilogue
) -> tvm.tirx.PrimFunc:
    """Build a kernel.

    Parameters
    ----------
    name : str
        Its name.
    problem : BlockLinear
        The sizes.
    product : PackedProduct
        The product.
    jobs : int
        Equal parts of the groups for different threads.
    epilogue : Epilogue
        The operators that follow the product.

    Returns
    -------
    PrimFunc
        ``(x [rows, K], the product's arrays, [bias [N]], [residual [rows, N]], y [rows, N])``,
        float32 but for the arrays.
    """
    rows, n, k = problem.rows, problem.n, problem.k
    groups = -(-n // GROUP)
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x = argument("x", rows, k)
        read: Declared = [(x, (rows, k)), *product.declare()]
        bias, residual = epilogue.declare(rows, n, read)
        y = argument("y", rows, n)
        loop = T.parallel if jobs > 1 else T.serial
        with loop(T.int64(0), T.int64(jobs)) as i, T.sblock(name):
            job = T.axis.spatial(T.int64(jobs), i)
            T.reads(*(whole(*operand) for operand in read))
            T.writes(whole(y, (rows, n)))
            product.prepare(x)
            first, end = (T.bind((job + i) * groups // jobs) for i in range(2))
            with T.serial(T.int64(0), end - first) as ahead:
                group = T.bind(first + ahead)
                results = Results(n, epilogue, (bias, residual, y), group)
                product.compute(group, results.store)
    return builder.get()


class Results:
    """Stores the results of a group; the last one may have fewer channels.

    Parameters
    ----------
    n : int
        Output channels.
    epilogue : Epilogue
        The operators that follow the product.
    buffers : tuple
        The bias ``[N]`` and the residual ``[rows, N]`` or None, and ``y [rows, N]``.
    group : Expr
        The group.
    """

    def __init__(
        self,
        n: int,
        epilogue: Epilogue,
        buffers: tuple[Expr | None, Expr | None, Expr],
        group: Expr,
    ) -> None:
        self.n, self.epilogue, self.group = n, epilogue, group
        self.bias, self.residual, self.y = buffers

    def store(self, row: Expr, values: list[Expr]) -> None:
        """Store the channels of a row."""
        whole, left = divmod(self.n, GROUP)
        if not left:
            self._store_all(row, values)
        elif not whole:
            self._store_some(row, values, left)
        else:
            with T.If(self.group < whole):
                with T.Then():
                    self._store_all(row, values)
                with T.Else():
                    self._store_some(row, values, left)

    def _store_all(self, row: Expr, values: list[Expr]) -> None:
        lanes = GROUP // len(values)
        for number, value in enumerate(values):
            self._finish(row, vector(self.group * GROUP + number * lanes, lanes), value)

    def _store_some(self, row: Expr, values: list[Expr], count: int) -> None:
        lanes = GROUP // len(values)
        for i in range(count):
            value = T.Shuffle([values[i // lanes]], [i % lanes])
            self._finish(row, T.bind(self.group * GROUP + i), value)

    def _finish(self, row: Expr, place: Expr, value: Expr) -> None:
        if self.bias is not None:
            value = value + self.bias[place]
        if self.residual is not None:
            value = value + self.residual[row, place]
        T.buffer_store(self.y, self.epilogue.activate(T.bind(value)), [row, place])

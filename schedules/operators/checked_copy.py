"""A copy of integers that ends in an error if one of them is out of range::

    for each place:
        y[place] = x[place]
        wrong = wrong or y[place] is out of range
    assert not wrong

What reads the copy needs no checks: nobody else writes it. The loop has no exit, so that LLVM makes
vectors of it, and one assertion stands behind it. Threads would lose the message of the error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T
from tvm_ffi import structural_map

from tvm_sparse.schedules.emit.buffers import argument

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import PrimFunc

OPAQUE = 8
"""The pattern of operators that TVM fuses with no other."""

MOST = 2**31 - 1
"""The most elements of a tensor."""


def checked_copy(
    shape: Sequence[Expr | int],
    dtype: str,
    is_valid: Callable[..., Expr],
    text: str,
    product: bool = False,
    sizes: int = 0,
) -> PrimFunc:
    """Return a function that copies integers and raises a ValueError if one is not valid.

    Parameters
    ----------
    shape : sequence of int or Expr
        The shape of the tensor. A size that is not known gets a variable.
    dtype : str
        The dtype of its elements.
    is_valid : callable
        Returns whether a value, as int64, is valid; it gets the value, its position along the last
        axis, which is 0 for a scalar, and the sizes.
    text : str
        The message of the error.
    product : bool
        Whether the values are the sizes of a tensor, whose product must not exceed `MOST`.
    sizes : int
        How many sizes the function takes before the tensors, as int64; where they come from may
        define the shape of the tensors, too.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name("checked_copy")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": OPAQUE})
        own = [size if isinstance(size, int | tirx.IntImm) else T.int64() for size in shape]
        given = [T.arg(f"size_{i}", T.int64()) for i in range(sizes)]
        x, y = (argument(name, *own, dtype=dtype) for name in ("x", "y"))
        with T.sblock("checked_copy"):
            whole = tuple(slice(0, size) for size in own)
            T.reads(x[whole])
            T.writes(y[whole])
            wrong, elements = (T.alloc_buffer((T.int64(1),), dt) for dt in ("int32", "int64"))
            zero = [T.int64(0)]
            T.buffer_store(wrong, T.int32(0), zero)
            T.buffer_store(elements, T.int64(1), zero)
            with contextlib.ExitStack() as loops:
                extents = (T.int64(s) if isinstance(s, int) else s for s in own)
                place = [loops.enter_context(T.serial(T.int64(0), size)) for size in extents]
                T.buffer_store(y, x[place], place)
                value = y[place] if dtype == "int64" else tirx.Cast("int64", y[place])
                valid = is_valid(value, place[-1] if place else T.int64(0), *given)
                T.buffer_store(wrong, tirx.Select(valid, wrong[0], T.int32(1)), zero)
                if product:
                    # A size that is valid has 31 bits, so that no product exceeds 62.
                    so_far = tirx.Min(elements[0], T.int64(MOST + 1))
                    T.buffer_store(elements, so_far * tirx.Select(valid, value, T.int64(1)), zero)
            fits = tirx.And(wrong[0] == T.int32(0), elements[0] <= T.int64(MOST))
            with T.Assert(fits, text, "ValueError"):
                T.evaluate(0)
    return builder.get()


def within(
    sizes: Sequence[Expr | int], from_end: bool = False, variables: Sequence[Expr] = ()
) -> Callable[..., Expr]:
    """Return the condition that an index is from 0, or from ``-size`` on, to ``size - 1``.

    `sizes` has the size for all indices, or one for each position along their last axis. Those that
    are known at run time only are expressions of `variables`, whose values the function takes.
    """

    def is_valid(index: Expr, position: Expr, *given: Expr) -> Expr:
        values = dict(zip(variables, given, strict=True))

        def known(size: Expr | int) -> Expr:
            if isinstance(size, int):
                return T.int64(size)
            return structural_map(size, (tvm.ir.Var, lambda variable: values[variable]))

        *others, size = map(known, sizes)
        for i, other in enumerate(others):
            size = tirx.Select(position == T.int64(i), other, size)
        return tirx.And(index >= (-size if from_end else T.int64(0)), index < size)

    return is_valid

"""Where the tokens of a padded batch go when its sentences are packed into panels.

The mask ``[batch, tokens]`` has a 1 for each token. Every sentence begins in a panel of its own and
fills its lanes with the tokens in their order, wherever the mask has them::

    for sentence:
        for token of it:
            source[row, lane] = place of the token in the padded batch
            place[token]      = row * lanes + lane
        for row of it:
            first[row], count[row] = first row of the sentence, its tokens

A sentence without tokens has no rows. If outputs read the first token of each sentence, it is
packed behind the others where the mask leaves it out, as a query that is no key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import argument, opaque, whole
from tvm_sparse.schedules.operators.checked_copy import OPAQUE

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import PrimFunc

NOWHERE = -1
"""The place of a token that is not packed."""


def count_rows(dtype: str, lanes: int, keeps_first: bool, text: str) -> PrimFunc:
    """Build the function that counts the rows of panels of a padded batch, at least one.

    Parameters
    ----------
    dtype : str
        The dtype of the mask.
    lanes : int
        Tokens of a panel.
    keeps_first : bool
        Whether the first token of each sentence is packed even if the mask leaves it out.
    text : str
        The message of the error, a ValueError, for a mask that holds anything but 0 and 1.

    Returns
    -------
    PrimFunc
        ``(mask [batch, tokens], rows [1])``, the rows int64.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        batch, tokens = _begin("count_rows")
        mask = argument("mask", batch, tokens, dtype=dtype)
        rows = argument("rows", 1, dtype="int64")
        with T.sblock("count_rows"):
            T.reads(whole(mask, (batch, tokens)))
            T.writes(whole(rows, (1,)))
            wrong = T.alloc_buffer((T.int64(1),), "int32")
            T.buffer_store(wrong, T.int32(0), [0])
            T.buffer_store(rows, T.int64(0), [0])
            with T.serial(T.int64(0), batch) as i:
                _, packed = _walk(mask, i, tokens, keeps_first, lambda j, number: None)
                T.buffer_store(rows, rows[0] + (packed + (lanes - 1)) // lanes, [0])
                with T.serial(T.int64(0), tokens) as j:
                    fits = tirx.Or(_is(mask[i, j], 0), _is(mask[i, j], 1))
                    T.buffer_store(wrong, tirx.Select(fits, wrong[0], T.int32(1)), [0])
            T.buffer_store(rows, T.max(rows[0], T.int64(1)), [0])
            with T.Assert(wrong[0] == T.int32(0), text, "ValueError"):
                T.evaluate(0)
    return builder.get()


def make_map(dtype: str, lanes: int, keeps_first: bool) -> PrimFunc:
    """Build the function that says where tokens go.

    Parameters
    ----------
    dtype, lanes, keeps_first
        As `count_rows` takes them.

    Returns
    -------
    PrimFunc
        ``(mask [batch, tokens], source [rows, lanes], first [rows], count [rows], place [batch,
        tokens])``, all but the mask int32. Lanes without a token have the source 0.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        batch, tokens = _begin("make_map")
        rows = tirx.Var("rows", "int64")
        mask = argument("mask", batch, tokens, dtype=dtype)
        source = argument("source", rows, lanes, dtype="int32")
        first, count = (argument(name, rows, dtype="int32") for name in ("first", "count"))
        place = argument("place", batch, tokens, dtype="int32")
        with T.sblock("make_map"):
            T.reads(whole(mask, (batch, tokens)))
            T.writes(
                whole(source, (rows, lanes)), whole(first, (rows,)), whole(count, (rows,)),
                whole(place, (batch, tokens)),
            )  # fmt: skip
            with T.serial(T.int64(0), rows) as row:  # one row is there even without any token
                T.buffer_store(first, T.int32(0), [row])
                T.buffer_store(count, T.int32(1), [row])
                with T.serial(T.int64(0), T.int64(lanes)) as lane:
                    T.buffer_store(source, T.int32(0), [row, lane])
            begin = T.alloc_buffer((T.int64(1),), "int64")
            T.buffer_store(begin, T.int64(0), [0])
            with T.serial(T.int64(0), batch) as i:
                with T.serial(T.int64(0), tokens) as j:
                    T.buffer_store(place, T.int32(NOWHERE), [i, j])

                def pack(j: Expr, number: Expr, i: Expr = i) -> None:
                    row, lane = opaque(begin[0] + number // lanes), opaque(number % lanes)
                    T.buffer_store(source, T.Cast("int32", i * tokens + j), [row, lane])
                    T.buffer_store(place, T.Cast("int32", row * lanes + lane), [i, j])

                keys, packed = _walk(mask, i, tokens, keeps_first, pack)
                own, start = opaque((packed + (lanes - 1)) // lanes), opaque(begin[0])
                with T.serial(T.int64(0), own) as row:
                    T.buffer_store(first, T.Cast("int32", start), [start + row])
                    T.buffer_store(count, T.Cast("int32", keys), [start + row])
                T.buffer_store(begin, start + own, [0])
    return builder.get()


def _begin(name: str) -> tuple[Expr, Expr]:
    """Name the function in scope, and return the variables of its sentences and their tokens."""
    T.func_name(name)
    T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": OPAQUE})
    return tirx.Var("batch", "int64"), tirx.Var("tokens", "int64")


def _walk(
    mask: Expr, i: Expr, tokens: Expr, keeps_first: bool, visit: Callable[[Expr, Expr], None]
) -> tuple[Expr, Expr]:
    """Call ``visit(token, number)`` for the packed tokens of a sentence; return keys and all."""
    number = T.alloc_buffer((T.int64(1),), "int64")
    T.buffer_store(number, T.int64(0), [0])
    with T.serial(T.int64(0), tokens) as j, T.If(tirx.Not(_is(mask[i, j], 0))), T.Then():
        visit(j, number[0])
        T.buffer_store(number, number[0] + 1, [0])
    keys = opaque(number[0])
    if keeps_first:
        with T.If(tirx.And(keys > 0, _is(mask[i, T.int64(0)], 0))), T.Then():
            visit(T.int64(0), keys)
            T.buffer_store(number, keys + 1, [0])
    return keys, opaque(number[0])


def _is(value: Expr, number: int) -> Expr:
    """Return whether an element of a mask is a number; LLVM compares no booleans as floats."""
    value = T.Cast("int32", value) if str(value.ty.dtype) == "bool" else value
    return value == tirx.const(number, str(value.ty.dtype))

"""NaN and infinities in functions that TVM has lowered.

TVM's maxima and minima, such as the one of a ReLU, lose NaN, and the maximum over an axis starts
from the smallest finite number, which is wrong where all values are -inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import tvm
from tvm import s_tir, tirx
from tvm_ffi import structural_map, structural_walk

from tvm_sparse.schedules.emit.expressions import is_float, maximum, minimum

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import PrimFunc, Stmt

KEEPING = {tirx.Max: maximum, tirx.Min: minimum}
PADDING = "pad_temp"
"""Blocks that hold the padding of a pooling."""
POOL_MAX = "pool_max"
"""Blocks that compute the maximum of a pooling."""


def keep_special_values(func: PrimFunc) -> PrimFunc:
    """Return `func` with maxima and minima that keep NaN and infinities.

    The update of a reduction stays a maximum of TVM's, by which a schedule recognizes it.
    """
    blocks: list[s_tir.SBlock] = []
    structural_walk(func.body, (s_tir.SBlock, blocks.append))
    is_max_pool = any(block.name_hint.startswith(POOL_MAX) for block in blocks)

    def keep(block: s_tir.SBlock) -> s_tir.SBlock:
        body, init = block.body, block.init
        if init is not None:
            init = _limits_from_infinity(init)
            body = structural_map(body, (tirx.BufferStore, _keep_in_update))
        elif isinstance(body, tirx.BufferStore):
            body = _with_value(body, _keep_nan(body.value))
            if is_max_pool and block.name_hint.startswith(PADDING):
                body = _limits_from_infinity(body)
        if body is block.body and init is block.init:
            return block
        return _with_body(block, body, init)

    return func.with_body(structural_map(func.body, (s_tir.SBlock, keep)))


def _keep_nan(value: Expr) -> Expr:
    for kind, keeping in KEEPING.items():

        def keep(node: Expr, keeping: Callable[[Expr, Expr], Expr] = keeping) -> Expr:
            return keeping(node.a, node.b) if is_float(node) else node

        value = structural_map(value, (kind, keep))
    return value


def _keep_in_update(store: tirx.BufferStore) -> tirx.BufferStore:
    """Keep NaN in the term of a reduction, but leave its combination."""
    value = store.value
    if type(value) in KEEPING:
        return _with_value(store, type(value)(_keep_nan(value.a), _keep_nan(value.b)))
    return _with_value(store, _keep_nan(value))


def keep_nan_in_reductions(func: PrimFunc, names: Collection[str]) -> PrimFunc:
    """Keep NaN in the combinations of the reductions whose blocks are called `names`."""

    def keep(block: s_tir.SBlock) -> s_tir.SBlock:
        if block.name_hint not in names or block.init is None:
            return block
        rule = (tirx.BufferStore, lambda store: _with_value(store, _keep_nan(store.value)))
        return _with_body(block, structural_map(block.body, rule), block.init)

    return func.with_body(structural_map(func.body, (s_tir.SBlock, keep)))


def _with_body(block: s_tir.SBlock, body: Stmt, init: Stmt | None) -> s_tir.SBlock:
    fields = (block.iter_vars, block.reads, block.writes, block.name_hint, body, init)
    return s_tir.SBlock(*fields, block.alloc_buffers, block.match_buffers, block.annotations)


def _with_value(store: tirx.BufferStore, value: Expr) -> tirx.BufferStore:
    if value.same_as(store.value):
        return store
    return tirx.BufferStore(store.buffer, value, store.indices)


def _limits_from_infinity(start: Stmt) -> Stmt:
    """Replace the smallest and the largest finite number, from which maxima and minima start.

    A search for the place of the maximum starts from NaN instead: every value takes its place, so
    that the place is always one of the tensor.
    """
    stores: list[tirx.BufferStore] = []
    structural_walk(start, (tirx.BufferStore, stores.append))
    finds_place = len(stores) > 1

    def replace(number: tirx.FloatImm) -> tirx.FloatImm:
        limits = [tvm.tirx.min_value(number.ty.dtype), tvm.tirx.max_value(number.ty.dtype)]
        for limit, infinity in zip(limits, (-math.inf, math.inf), strict=True):
            if number.value == limit.value:
                return tirx.FloatImm(number.ty.dtype, math.nan if finds_place else infinity)
        return number

    return structural_map(start, (tirx.FloatImm, replace))

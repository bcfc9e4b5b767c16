"""The cache of the keys or the values of a sequence, and how its elements are rounded.

An element of 8 bits is an integer, of which a scale says what it stands for. The elements of a head
at a position share one::

    scale = max(abs(row)) / 127;  element = rint(row / scale)

A row with a number that is not finite gets the scale NaN.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tvm.ir import PointerType, PrimType
from tvm.tirx.script import builder as T

from tvm_sparse.dtypes import DType
from tvm_sparse.schedules.emit.buffers import converted, number, scratch, vector
from tvm_sparse.schedules.emit.sizes import size
from tvm_sparse.sizes.cached_attention import BLOCK, TILE

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.sizes.cached_attention import CachedAttention

_INTEGERS = "int8"
_MOST = 127
_TINY = 1e-33
"""Numbers below it are rounded to zero: the inverse of their scale would not be finite."""


class CacheMemory:
    """The cache of keys (0) or of values (1).

    Parameters
    ----------
    problem : CachedAttention
        The sizes.
    which : int
        Keys or values.
    address : Expr
        Where it lies.
    blocks : Expr
        The blocks that it has.
    """

    def __init__(self, problem: CachedAttention, which: int, address: Expr, blocks: Expr) -> None:
        self.problem, self.is_keys = problem, which == 0
        self.has_scales = problem.cache == _INTEGERS
        shape = (size(e) if isinstance(e, int) else e for e in problem.caches(blocks)[which])
        self.elements = _buffer(address, tuple(shape), problem.cache)
        if self.has_scales:
            behind = address + problem.elements(blocks)[which]
            self._scales = _buffer(behind, (size(problem.kv_heads), blocks, size(BLOCK)), "float32")

    def load(self, head: Expr, block: Expr, *place: Expr) -> Expr:
        """Return a vector of elements, as float32 numbers, which `scales` belong to."""
        lanes = vector(T.int64(0), TILE)
        return T.bind(converted(self.elements[(head, block, *place, lanes)], DType.FLOAT32))

    def scales(self, head: Expr, block: Expr, place: Expr) -> Expr:
        """Return the scales of neighbouring positions of a block."""
        return self._scales[head, block, vector(place, TILE)]

    @contextlib.contextmanager
    def storing(
        self, head: Expr, block: Expr, place: Expr
    ) -> Iterator[Callable[[Expr, Expr], None]]:
        """Yield a function that stores a channel of a head at a position of a block."""

        def store(d: Expr, value: Expr) -> None:
            if self.is_keys:
                at = [head, block, place // TILE, d, place % TILE]
            else:
                at = [head, block, d // TILE, place, d % TILE]
            T.buffer_store(self.elements, value, at)

        if not self.has_scales:
            yield lambda d, value: store(d, converted(value, DType(self.problem.cache)))
            return
        channels = T.int64(self.problem.head_dim)
        row, most = scratch(self.problem.head_dim), scratch(2)
        yield lambda d, value: T.buffer_store(row, value, [d])
        for i in range(2):
            T.buffer_store(most, number(0), [T.int64(i)])
        with T.serial(T.int64(0), channels) as d:
            value = T.bind(row[d])
            larger = T.max(most[T.int64(0)], T.max(value, number(0) - value))
            T.buffer_store(most, larger, [T.int64(0)])
            not_finite = most[T.int64(1)] + value * number(0)
            T.buffer_store(most, not_finite, [T.int64(1)])
        largest = T.bind(most[T.int64(0)])
        is_tiny = largest < number(_TINY)
        scale = T.Select(is_tiny, number(0), largest / number(_MOST)) + most[T.int64(1)]
        T.buffer_store(self._scales, scale, [head, block, place])
        inverse = T.bind(T.Select(is_tiny, number(0), number(_MOST) / largest))
        with T.serial(T.int64(0), channels) as d:
            rounded = T.call_llvm_pure_intrin("float32", "llvm.rint.f32", row[d] * inverse)
            store(d, T.Cast(_INTEGERS, rounded))


def _buffer(address: Expr, shape: tuple[Expr, ...], dtype: str) -> Expr:
    pointer = T.bind(T.reinterpret(PointerType(PrimType(dtype)), address))
    return T.decl_buffer(shape, dtype, data=pointer)

"""The operands of an attention's products as tiles of the matrix unit AMX.

Keys and values are tiles A, whose rows hold 32 bfloat16 values. Queries and exponentials are tiles
B, whose rows hold 16 pairs: two tiles for every 32 queries (see `tvm_sparse.schedules.emit.amx`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.dtypes import DType
from tvm_sparse.schedules.emit.bfloat16_pairs import PAIRS, bfloat16_of
from tvm_sparse.schedules.emit.buffers import (
    HEAP_LEAST_BYTES,
    across,
    converted,
    filled,
    masked,
    only_lanes,
    scratch,
    vector,
)
from tvm_sparse.schedules.emit.expressions import bits_of, int_constant, with_lanes
from tvm_sparse.schedules.emit.half_math import MANTISSA_BITS, RAISED
from tvm_sparse.schedules.emit.transpose import transpose

if TYPE_CHECKING:
    from tvm.ir import Expr

SIDE = 2 * PAIRS
"""Values of a row of a tile A, and queries of two tiles B."""

_TILE = 16 * PAIRS
"""Words of 32 bits of a tile."""


class AttentionTiles:
    """The tiles of one head and one block of queries; allocates their memory.

    Parameters
    ----------
    key_tokens : int or Expr
        Keys of a sequence.
    head_dim : int
        Channels of a head, a multiple of 32.
    lanes : int
        Lanes of all panels, a multiple of 32.
    """

    def __init__(self, key_tokens: int | Expr, head_dim: int, lanes: int) -> None:
        self.head_dim, self.lanes = head_dim, lanes
        self.steps, self.key_steps = head_dim // SIDE, -(-key_tokens // SIDE)
        pairs = self.key_steps * (SIDE // 2)
        self._queries = _words(head_dim * lanes // 2)
        self._keys = _words(pairs * head_dim)
        self._values = _words(pairs * head_dim)
        self._weights = _words(pairs * lanes)

    def keys(self, tile: Expr, step: Expr | int) -> Expr:
        """Return the first element of a tile of 16 keys and a step of 32 channels."""
        return self._keys[(tile * self.steps + step) * _TILE]

    def queries(self, tile: int, step: Expr | int) -> Expr:
        """Return the first element of a tile of 16 queries and a step of 32 channels."""
        return self._queries[(tile * self.steps + step) * _TILE]

    def values(self, tile: Expr, step: Expr) -> Expr:
        """Return the first element of a tile of 16 channels and a step of 32 keys."""
        return self._values[(tile * self.key_steps + step) * _TILE]

    def weights(self, tile: int, step: Expr) -> Expr:
        """Return the first element of a tile of 16 queries and a step of 32 keys."""
        return self._weights[(tile * self.key_steps + step) * _TILE]

    def store_weights(self, tile: int, pair: Expr, words: Expr) -> None:
        """Store a pair of keys of a tile of 16 queries."""
        place = (tile * self.key_steps * PAIRS + pair) * PAIRS
        T.buffer_store(self._weights, words, [vector(place, PAIRS)])

    def store_queries(self, queries: Any, scale: float) -> None:
        """Scale the queries of a panel and store them as pairs of channels."""
        factor = filled(scale, PAIRS)
        with T.serial(T.int64(0), T.int64(self.head_dim // 2)) as pair:
            for column in range(self.lanes // PAIRS):
                even, odd = (
                    self._wide(queries, (pair * 2 + e) * self.lanes + column * PAIRS) * factor
                    for e in (0, 1)
                )
                place = (column * self.steps * PAIRS + pair) * PAIRS
                words = _pairs_of(even, odd)
                T.buffer_store(self._queries, words, [vector(place, PAIRS)])

    def _wide(self, panel: Any, index: Expr) -> Expr:
        """Return consecutive values of a panel in float32."""
        return converted(panel[vector(index, PAIRS)], DType.FLOAT32)

    def store_keys(self, panel: Any, block: Expr, keys: int) -> None:
        """Store the first keys of a block of a panel as tiles with a key in each row."""
        first = T.bind(block * (self.lanes // PAIRS))
        count = -(-keys // PAIRS) * self.steps
        with T.serial(T.int64(0), T.int64(count)) as i:
            tile, step = T.bind(i // self.steps), T.bind(i % self.steps)
            rows = []
            for pair in range(PAIRS):
                even, odd = (
                    self._wide(panel, (step * SIDE + 2 * pair + e) * self.lanes + tile * PAIRS)
                    for e in (0, 1)
                )
                rows.append(T.bind(_pairs_of(even, odd)))
            for row, words in enumerate(transpose(rows)):
                place = ((first + tile) * self.steps + step) * _TILE + row * PAIRS
                T.buffer_store(self._keys, words, [vector(place, PAIRS)])

    def store_values(self, panel: Any, block: Expr, keys: int | Expr) -> None:
        """Store a block of values of a panel as tiles with a channel in each row.

        Behind the last key lie zeros, in the whole block if the number of keys is an expression.
        """
        count = keys if isinstance(keys, int) else self.lanes
        first = T.bind(block * (self.lanes // SIDE))
        zeros = filled(0, SIDE, DType.FLOAT16)
        with T.serial(T.int64(0), T.int64(self.head_dim)) as channel:
            tile, row = T.bind(channel // PAIRS), T.bind(channel % PAIRS)
            for k in range(-(-count // SIDE)):
                values = panel[vector(channel * self.lanes + k * SIDE, SIDE)]
                if isinstance(keys, int):
                    values = masked(values, keys - k * SIDE, zeros)
                else:
                    values = only_lanes(values, T.int64(0), keys - k * SIDE, zeros)
                bits = bfloat16_of(values)
                words = T.reinterpret(f"uint32x{PAIRS}", bits)
                place = (tile * self.key_steps + (first + k)) * _TILE + row * PAIRS
                T.buffer_store(self._values, words, [vector(place, PAIRS)])


def lowered_bits(power: Expr) -> Expr:
    """Return the bits of ``power / 2**RAISED`` as bfloat16; `power` is a positive float16.

    Ties are rounded up. The results of subnormal numbers are below 2**-24, and those of NaN are
    numbers.
    """
    mantissa = 3  # bits that bfloat16 lacks
    exponent = (127 - 15 - RAISED) << (MANTISSA_BITS - mantissa)
    bits = bits_of(power) + int_constant(1 << (mantissa - 1), power)
    return T.shift_right(bits, int_constant(mantissa, power)) + int_constant(exponent, power)


def unpacked(half: int) -> list[int]:
    """Return the places of two vectors of 32 values that one half of the unpacked pairs holds.

    x86 interleaves, in one operation, the low or the high halves of all 128-bit lanes.
    """
    lanes = 2 * PAIRS
    firsts = range(4 * half, lanes, 8)
    return [place for first in firsts for i in range(first, first + 4) for place in (i, lanes + i)]


def columns_unpacked() -> list[int]:
    """Return the lanes that are the columns of two tiles of pairs that `unpacked` made."""
    return [place for half in (0, 1) for place in unpacked(half)[::2]]


def _pairs_of(even: Expr, odd: Expr) -> Expr:
    """Return pairs of two float32 vectors as uint32, rounded to the nearest bfloat16.

    It takes four operations of integers and no shuffle. Ties are rounded away from zero; NaN and
    infinities stay.
    """
    words, lanes = with_lanes("uint32", even), even.ty.dtype.lanes
    low, high = (
        T.reinterpret(words, value) + across(T.uint32(0x8000), lanes) for value in (even, odd)
    )
    return (low >> across(T.uint32(16), lanes)) | (high & across(T.uint32(0xFFFF0000), lanes))


def _words(count: int | Expr) -> Expr:
    """Allocate words of 32 bits, in memory of their own."""
    least = HEAP_LEAST_BYTES // 4
    if isinstance(count, int):
        return scratch(max(count, least), "uint32")
    return T.alloc_buffer((T.max(count, T.int64(least)),), "uint32")

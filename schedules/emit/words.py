"""Values of several channels side by side in a word of 32 bits, for one lane of panels each.

Products of words are what the matrix unit and the dot products of vectors compute.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.formats.quantization import Quantization
from tvm_sparse.schedules.emit.bfloat16_pairs import bfloat16_of, pairs_of
from tvm_sparse.schedules.emit.buffers import across

if TYPE_CHECKING:
    from tvm.ir import Expr


class Words(ABC):
    """How the values of panels become words.

    Attributes
    ----------
    per_word : int
        Values of a word.
    most_lanes : int
        Lanes of panels that are converted together.
    """

    per_word: int
    most_lanes: int = 16

    @abstractmethod
    def of(self, values: Sequence[Expr]) -> list[Expr]:
        """Return the words of vectors, of which there is one for each value of a word.

        Parameters
        ----------
        values : sequence of Expr
            Vectors of float32 or float16, of equal lanes; missing ones stand for zeros.

        Returns
        -------
        list of Expr
            uint32 vectors of equal lanes; the first value is in the lowest bits.
        """

    def halves(self, values: Expr) -> Expr:
        """Return a vector as values of 16 bits, for words of two such values."""
        raise ValueError(f"{type(self).__name__} has no values of 16 bits")

    def zeros(self, lanes: int) -> Expr:
        """Return words whose values all stand for zero."""
        return T.Broadcast(T.uint32(0), lanes)

    def pieces(self, lanes: int) -> Iterator[tuple[int, int]]:
        """Yield the first lane and the lanes of the pieces that are converted together."""
        lane = 0
        while lane < lanes:
            count = self.most_lanes
            while count > lanes - lane:
                count //= 2
            yield lane, count
            lane += count


class Bfloat16Pairs(Words):
    """float16 values as pairs of bfloat16 values."""

    per_word, most_lanes = 2, 32

    def of(self, values: Sequence[Expr]) -> list[Expr]:
        """Return pairs, rounded to the nearest bfloat16."""
        even, odd = (*values, T.Broadcast(T.float16(0), values[0].ty.dtype.lanes))[:2]
        return pairs_of(even, odd)

    def halves(self, values: Expr) -> Expr:
        """Return the bits of the nearest bfloat16 values."""
        return bfloat16_of(values)


ROUNDING = 1.5 * 2**23
"""A float32 number; below 2**22, what is added to it is rounded to an integer in its low bits."""


@dataclass(frozen=True)
class Integers(Words):
    """Values as the integers of a quantization: four of 8 bits, or two of 16.

    An integer of 8 bits lies ``low`` above the least one of the type, signed or not. One of 16 bits
    is the distance from the zero point.

    Attributes
    ----------
    steps : Quantization
        The integers.
    per_word : int
        4 or 2.
    is_signed : bool
        Whether integers of 8 bits are signed.
    """

    steps: Quantization
    per_word: int = 4
    is_signed: bool = False

    @property
    def zero_byte(self) -> int:
        """The integer that stands for zero."""
        if self.per_word == 2:
            return 0
        return self.steps.zero_point - self.steps.low - (128 if self.is_signed else 0)

    def zeros(self, lanes: int) -> Expr:
        """Return words whose values all stand for zero."""
        return T.Broadcast(T.uint32((self.zero_byte % 256) * 0x01010101), lanes)

    def of(self, values: Sequence[Expr]) -> list[Expr]:
        """Return words of the nearest integers."""
        words = joined([self._distances(value) for value in values], self.per_word)
        if self.zero_byte % 256:
            words = with_added(words, T.int8((self.zero_byte + 128) % 256 - 128))
        return [words]

    def halves(self, values: Expr) -> Expr:
        """Return the nearest integers of 16 bits."""
        lanes = values.ty.dtype.lanes
        return T.reinterpret(f"uint16x{lanes}", T.Cast(f"int16x{lanes}", self._distances(values)))

    def _distances(self, value: Expr) -> Expr:
        """Return int32 values whose low bits are the distances from the zero point, in steps."""
        lanes = value.ty.dtype.lanes
        dtype = f"float32x{lanes}"
        wide = value if value.ty.dtype.bits == 32 else T.Cast(dtype, value)
        inverse, tie = float(self.steps.inverse), self.steps.tie
        start = ROUNDING + tie
        operands = wide, _float(inverse, lanes), _float(start, lanes)
        moved = T.call_llvm_pure_intrin(dtype, "llvm.fmuladd", *operands)
        zero = self.steps.zero_point
        moved = T.max(moved, _float(start + self.steps.low - zero, lanes))
        moved = T.min(moved, _float(start + self.steps.high - zero, lanes))
        distances = T.reinterpret(f"int32x{lanes}", moved)
        return distances - _filled(tie, lanes) if tie else distances


def joined(integers: Sequence[Expr], per_word: int) -> Expr:
    """Return words, uint32, of the low bits of int32 values; the first is in the lowest bits."""
    lanes, bits = integers[0].ty.dtype.lanes, 32 // per_word
    words: Expr | None = None
    for i, part in enumerate(integers):
        if i < per_word - 1:
            part = T.bitwise_and(part, _filled((1 << bits) - 1, lanes))
        if i:
            part = T.shift_left(part, _filled(bits * i, lanes))
        words = T.bind(part if words is None else T.bitwise_or(words, part))
    return T.reinterpret(_type("uint32", lanes), words)


def with_added(words: Expr, byte: Expr) -> Expr:
    """Return words with an int8 number added to each of their bytes."""
    lanes = words.ty.dtype.lanes
    bytes_ = T.reinterpret(f"int8x{4 * lanes}", words) + T.Broadcast(byte, 4 * lanes)
    return T.reinterpret(_type("uint32", lanes), bytes_)


def _type(name: str, lanes: int) -> str:
    return f"{name}x{lanes}" if lanes > 1 else name


def _filled(value: int, lanes: int) -> Expr:
    return across(T.int32(value), lanes)


def _float(value: float, lanes: int) -> Expr:
    return T.Broadcast(T.float32(value), lanes)
